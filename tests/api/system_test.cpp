// How many threads the system grants, from cgroups of both versions in trees of files like the kernel's.
#include "api_test_support.hpp"

#include "api/thread_limits.hpp"

#include <gqmm/system.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

namespace gqmm::test {
namespace {

class CgroupThreads : public testing::Test {
 protected:
  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(folder_.file(path).parent_path());
    std::ofstream(folder_.file(path)) << text;
  }
  /// Version 2: the file cpu.max of a group; "" is the root.
  void write_max(const std::string& group, const std::string& text) { write("sys/fs/cgroup" + group + "/cpu.max", text); }
  /// Version 1.
  void write_cfs(const std::string& group, const std::string& quota, const std::string& period = "100000\n") {
    write("sys/fs/cgroup/cpu" + group + "/cpu.cfs_quota_us", quota);
    write("sys/fs/cgroup/cpu" + group + "/cpu.cfs_period_us", period);
  }
  void write_groups(const std::string& lines) { write("proc/self/cgroup", lines); }
  [[nodiscard]] std::optional<int> threads() const { return cgroup_threads(folder_.file("").native()); }

 private:
  TemporaryFolder folder_;
};

TEST_F(CgroupThreads, AreUnlimitedWithoutFiles) {
  EXPECT_EQ(threads(), std::nullopt);
  write_groups("0::/a/b\n4:cpu:/a\n");
  EXPECT_EQ(threads(), std::nullopt);
}

TEST_F(CgroupThreads, OfVersion2AreTheQuotaRoundedUp) {
  write_groups("0::/job\n");
  for (const auto& [text, expected] : {std::pair<std::string, std::optional<int>>{"max 100000\n", std::nullopt},
                                       {"max", std::nullopt},
                                       {"1000 100000\n", 1},
                                       {"100000 100000\n", 1},
                                       {"100001 100000\n", 2},
                                       {"150000 100000\n", 2},
                                       {"200000 100000\n", 2},
                                       {"50000 10000\n", 5}}) {
    write_max("/job", text);
    EXPECT_EQ(threads(), expected) << text;
  }
}

TEST_F(CgroupThreads, AreThoseOfTheNarrowestGroupOnTheWayUp) {
  write_groups("0::/slice/job/step\n");
  write_max("/slice/job/step", "400000 100000\n");
  EXPECT_EQ(threads(), 4);
  write_max("/slice/job", "max 100000\n");
  EXPECT_EQ(threads(), 4);
  write_max("/slice", "150000 100000\n");
  EXPECT_EQ(threads(), 2);
  write_max("/slice/job/step", "max 100000\n");
  EXPECT_EQ(threads(), 2);
  write_max("", "100000 100000\n");
  EXPECT_EQ(threads(), 1);
  write_max("/slice/other", "10000 100000\n");
  EXPECT_EQ(threads(), 1);
}

TEST_F(CgroupThreads, OfAContainerStandAtTheRootThatItSees) {
  write_groups("0::/\n");
  write_max("", "250000 100000\n");
  EXPECT_EQ(threads(), 3);
  write_groups("0::/../outside\n");
  EXPECT_EQ(threads(), 3);
}

TEST_F(CgroupThreads, OfVersion1AreTheQuotaRoundedUp) {
  write_groups("12:cpuset:/\n4:cpu,cpuacct:/docker/7f\n1:name=systemd:/docker/7f\n");
  write_cfs("/docker/7f", "-1\n");
  EXPECT_EQ(threads(), std::nullopt);
  write_cfs("/docker/7f", "250000\n");
  EXPECT_EQ(threads(), 3);
  write_cfs("/docker", "100000\n");
  EXPECT_EQ(threads(), 1);
  write_groups("4:cpuacct,cpu:/docker/7f\n");
  EXPECT_EQ(threads(), 1);
}

TEST_F(CgroupThreads, OfAContainerOfVersion1StandAtTheRootThatItSees) {
  write_groups("4:cpu,cpuacct:/docker/7f\n");
  write_cfs("", "150000\n");
  EXPECT_EQ(threads(), 2);
}

TEST_F(CgroupThreads, DoNotDependOnGroupsOfOtherControllers) {
  write_groups("5:cpuset:/narrow\n2:cpuacct:/narrow\n4:cpu:/wide\n");
  write_cfs("/narrow", "100000\n");
  write_cfs("/wide", "300000\n");
  EXPECT_EQ(threads(), 3);
}

TEST_F(CgroupThreads, AreUnlimitedByFilesThatMakeNoSense) {
  for (const char* groups : {"0::/job\n", "::\n", "", "0::job\n", "0:/job\n", "nothing\n:\n\n", "0::/\n0::\n", "0:://\n"}) {
    write_groups(groups);
    for (const char* text : {"", "\n", "100000", "one two", "-1 100000", "0 100000", "100000 0", "100000 -5", "1e30 1",
                             "99999999999999999999 1", "nan 1", "max max"}) {
      write_max("/job", text);
      EXPECT_EQ(threads(), std::nullopt) << groups << text;
    }
  }
  write_groups("4:cpu:/job\n");
  write_cfs("/job", "", "");
  EXPECT_EQ(threads(), std::nullopt);
  write_cfs("/job", "100000", "none");
  EXPECT_EQ(threads(), std::nullopt);
}

TEST_F(CgroupThreads, AreUnlimitedByAQuotaBeyondEveryMachine) {
  write_groups("0::/job\n");
  write_max("/job", "9223372036854775807 1\n");
  EXPECT_EQ(threads(), std::nullopt);
}

TEST(ThreadLimits, AreAllKeptByAvailableThreads) {
  const ThreadLimits limits = thread_limits();
  EXPECT_GE(limits.affinity, 1);
  EXPECT_GE(available_threads(), 1);
  EXPECT_LE(available_threads(), limits.affinity);
  EXPECT_LE(available_threads(), limits.cgroup.value_or(available_threads()));
  EXPECT_LE(available_threads(), limits.environment.value_or(available_threads()));
}

TEST(ThreadLimits, OfTheEnvironmentAreAnyPositiveNumber) {
  const char* const given = std::getenv("OMP_NUM_THREADS");
  const std::optional<std::string> saved = given == nullptr ? std::nullopt : std::optional<std::string>(given);
  for (const auto& [text, expected] : {std::pair<const char*, std::optional<int>>{"3", 3},
                                       {" 4,2", 4},
                                       {"0", std::nullopt},
                                       {"-1", std::nullopt},
                                       {"many", std::nullopt},
                                       {"4294967297", std::nullopt},  // 2^32 + 1: more than any machine has, not one
                                       {"99999999999999999999", std::nullopt}}) {
    setenv("OMP_NUM_THREADS", text, 1);
    EXPECT_EQ(thread_limits().environment, expected) << text;
  }
  saved ? setenv("OMP_NUM_THREADS", saved->c_str(), 1) : unsetenv("OMP_NUM_THREADS");
}

}  // namespace
}  // namespace gqmm::test
