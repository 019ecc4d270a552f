// Tests how many threads a call may have. Quotas of control groups limit them, which are read from trees of files like the
// kernel's. Affinity masks, environment variables and the program's own choice limit them too.
#include "threads/limits.hpp"
#include "api/api_test_support.hpp"
#include "threads/cgroup_quota.hpp"

#include <gqmm/c.h>
#include <gqmm/stream.hpp>
#include <gqmm/system.hpp>

#include <fmt/format.h>
#include <sched.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

namespace gqmm::threads {
namespace {

class CgroupQuota : public testing::Test {
 protected:
  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(folder_.file(path).parent_path());
    std::ofstream(folder_.file(path)) << text;
  }
  /// Writes the quota of a group in version 2, in its file cpu.max. "" is the root.
  void write_max(const std::string& group, const std::string& text) { write("sys/fs/cgroup" + group + "/cpu.max", text); }
  /// Writes the quota of a group in version 1.
  void write_cfs(const std::string& group, const std::string& quota, const std::string& period = "100000\n") {
    write("sys/fs/cgroup/cpu" + group + "/cpu.cfs_quota_us", quota);
    write("sys/fs/cgroup/cpu" + group + "/cpu.cfs_period_us", period);
  }
  void write_groups(const std::string& lines) { write("proc/self/cgroup", lines); }
  /// The quota in processors.
  [[nodiscard]] std::optional<double> quota() const { return cgroup_quota(folder_.file("").native()); }

 private:
  test::TemporaryFolder folder_;
};

TEST_F(CgroupQuota, IsAbsentWithoutFiles) {
  EXPECT_EQ(quota(), std::nullopt);
  write_groups("0::/a/b\n4:cpu:/a\n");
  EXPECT_EQ(quota(), std::nullopt);
}

TEST_F(CgroupQuota, OfVersion2IsTimeOverPeriod) {
  write_groups("0::/job\n");
  for (const auto& [text, expected] : {std::pair<std::string, std::optional<double>>{"max 100000\n", std::nullopt},
                                       {"max", std::nullopt},
                                       {"1000 100000\n", 0.01},
                                       {"100000 100000\n", 1},
                                       {"100001 100000\n", 1.00001},
                                       {"150000 100000\n", 1.5},
                                       {"200000 100000\n", 2},
                                       {"50000 10000\n", 5}}) {
    write_max("/job", text);
    EXPECT_EQ(quota(), expected) << text;
  }
}

TEST_F(CgroupQuota, IsThatOfTheNarrowestGroupOnTheWayUp) {
  write_groups("0::/slice/job/step\n");
  write_max("/slice/job/step", "400000 100000\n");
  EXPECT_EQ(quota(), 4);
  write_max("/slice/job", "max 100000\n");
  EXPECT_EQ(quota(), 4);
  write_max("/slice", "150000 100000\n");
  EXPECT_EQ(quota(), 1.5);
  write_max("/slice/job/step", "max 100000\n");
  EXPECT_EQ(quota(), 1.5);
  write_max("", "100000 100000\n");
  EXPECT_EQ(quota(), 1);
  write_max("/slice/other", "10000 100000\n");  // a group of others
  EXPECT_EQ(quota(), 1);
}

TEST_F(CgroupQuota, OfAContainerStandsAtTheRootThatItSees) {
  write_groups("0::/\n");
  write_max("", "250000 100000\n");
  EXPECT_EQ(quota(), 2.5);
  write_groups("0::/../outside\n");
  EXPECT_EQ(quota(), 2.5);
}

TEST_F(CgroupQuota, OfVersion1IsTimeOverPeriod) {
  write_groups("12:cpuset:/\n4:cpu,cpuacct:/docker/7f\n1:name=systemd:/docker/7f\n");
  write_cfs("/docker/7f", "-1\n");
  EXPECT_EQ(quota(), std::nullopt);
  write_cfs("/docker/7f", "250000\n");
  EXPECT_EQ(quota(), 2.5);
  write_cfs("/docker", "100000\n");
  EXPECT_EQ(quota(), 1);
  write_groups("4:cpuacct,cpu:/docker/7f\n");
  EXPECT_EQ(quota(), 1);
}

TEST_F(CgroupQuota, OfAContainerOfVersion1StandsAtTheRootThatItSees) {
  write_groups("4:cpu,cpuacct:/docker/7f\n");
  write_cfs("", "150000\n");
  EXPECT_EQ(quota(), 1.5);
}

TEST_F(CgroupQuota, DoesNotDependOnGroupsOfOtherControllers) {
  write_groups("5:cpuset:/narrow\n2:cpuacct:/narrow\n4:cpu:/wide\n");
  write_cfs("/narrow", "100000\n");
  write_cfs("/wide", "300000\n");
  EXPECT_EQ(quota(), 3);
}

TEST_F(CgroupQuota, IsAbsentIfFilesMakeNoSense) {
  for (const char* groups : {"0::/job\n", "::\n", "", "0::job\n", "0:/job\n", "nothing\n:\n\n", "0::/\n0::\n", "0:://\n"}) {
    write_groups(groups);
    for (const char* text : {"", "\n", "100000", "one two", "-1 100000", "0 100000", "100000 0", "100000 -5", "1e30 1",
                             "99999999999999999999 1", "nan 1", "max max"}) {
      write_max("/job", text);
      EXPECT_EQ(quota(), std::nullopt) << groups << text;
    }
  }
  write_groups("4:cpu:/job\n");
  write_cfs("/job", "", "");
  EXPECT_EQ(quota(), std::nullopt);
  write_cfs("/job", "100000", "none");
  EXPECT_EQ(quota(), std::nullopt);
}

ProcessorSet processors(int count) {
  ProcessorSet set;
  for (int processor = 0; processor < count; ++processor) {
    set.add(2 * processor);
  }
  return set;
}

TEST(Processors, AreCountedUpToTheQuotaRoundedUp) {
  EXPECT_EQ((Processors{processors(4), std::nullopt}.count()), 4);
  EXPECT_EQ((Processors{processors(4), 0.01}.count()), 1);
  EXPECT_EQ((Processors{processors(4), 1.0}.count()), 1);
  EXPECT_EQ((Processors{processors(4), 1.00001}.count()), 2);
  EXPECT_EQ((Processors{processors(4), 1e18}.count()), 4);
  EXPECT_EQ((Processors{processors(3000), std::nullopt}.count()), 3000);
}

TEST(ProcessorSet, OfThisThreadIsWhatTheSystemHasSet) {
  const ProcessorSet all = ProcessorSet::of_thread();
  ASSERT_GE(all.count(), 1);
  cpu_set_t mask;
  ASSERT_EQ(sched_getaffinity(0, sizeof mask, &mask), 0);
  EXPECT_EQ(all.count(), CPU_COUNT(&mask));
}

TEST(ThreadLimits, AreAllKeptByAvailableThreads) {
  const ThreadLimits limits = thread_limits();
  EXPECT_GE(limits.affinity, 1);
  EXPECT_EQ(available_threads(), limits.threads());
  EXPECT_LE(available_threads(), limits.affinity);
}

TEST(ThreadLimits, FollowAnAffinityMaskThatChanges) {
  cpu_set_t saved;
  ASSERT_EQ(sched_getaffinity(0, sizeof saved, &saved), 0);
  const int before = available_threads();
  int first = 0;
  while (CPU_ISSET(first, &saved) == 0) {
    ++first;
  }
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(available_threads(), 1);
  ASSERT_EQ(sched_setaffinity(0, sizeof saved, &saved), 0);
  EXPECT_EQ(available_threads(), before);
}

TEST(OmpNumThreads, IsTheFirstNumberOfAList) {
  for (const auto& [text, expected] : {std::pair<const char*, int>{"3", 3},
                                       {" 2 ", 2},
                                       {"4,2", 4},
                                       {" 4 , 2", 4},
                                       {"+5", 5},
                                       {"4,", 4},
                                       {"6,many", 6},
                                       {"4096", 4096}}) {
    EXPECT_EQ(parse_omp_num_threads(text).threads, expected) << text;
    EXPECT_EQ(parse_omp_num_threads(text).ignored, "") << text;
  }
  EXPECT_EQ(parse_omp_num_threads(nullptr).threads, std::nullopt);
  EXPECT_EQ(parse_omp_num_threads(nullptr).ignored, "");
}

TEST(OmpNumThreads, IsIgnoredForAReasonIfItMeansNothing) {
  for (const auto& [text, reason] : {std::pair<const char*, const char*>{"", "\"\" has no number"},
                                     {"  ", "\"  \" has no number"},
                                     {",2", "\",2\" has no number"},
                                     {"auto", "\"auto\" is not a whole number"},
                                     {"4x", "\"4x\" is not a whole number"},
                                     {"1.5", "\"1.5\" is not a whole number"},
                                     {"-3", "\"-3\" is not positive"},
                                     {"0", "\"0\" is not positive"},
                                     {"-99999999999999999999", "\"-99999999999999999999\" is not positive"},
                                     {"4097", "\"4097\" is more than 4096 threads"},
                                     {"4294967297", "\"4294967297\" is more than 4096 threads"},  // 2^32 + 1, which is not one
                                     {"99999999999999999999", "\"99999999999999999999\" is more than 4096 threads"}}) {
    EXPECT_EQ(parse_omp_num_threads(text).threads, std::nullopt) << text;
    EXPECT_EQ(parse_omp_num_threads(text).ignored, reason);
  }
}

TEST(GqmmNumThreads, IsANumberOrAnErrorWithARemedy) {
  EXPECT_EQ(parse_gqmm_num_threads(nullptr), std::nullopt);
  EXPECT_EQ(parse_gqmm_num_threads(""), std::nullopt);
  EXPECT_EQ(parse_gqmm_num_threads(" 12 "), 12);
  for (const char* text : {"0", "-1", "4097", "two", "4,2", "1.5", " ", "99999999999999999999"}) {
    test::expect_error(
        fmt::format(
            "[gqmm] GQMM_NUM_THREADS = \"{}\" is not a number of threads; set a whole number from 1 to 4096, or unset it to "
            "use as many as the machine grants",
            text),
        [text] { return parse_gqmm_num_threads(text); });
  }
}

TEST(SetNumThreads, HoldsForCallsWithoutANumberOfTheirOwn) {
  const int by_default = get_num_threads();
  EXPECT_EQ(by_default, available_threads());
  for (const int threads : {1, 3, Stream::max_threads}) {
    set_num_threads(threads);
    EXPECT_EQ(get_num_threads(), threads);
    EXPECT_EQ(gqmm_get_num_threads(), threads);
  }
  set_num_threads(0);
  EXPECT_EQ(get_num_threads(), by_default);
}

TEST(SetNumThreads, RefusesWhatIsNoNumberOfThreadsAndChangesNothing) {
  set_num_threads(2);
  for (const int threads : {-1, Stream::max_threads + 1}) {
    test::expect_error(
        fmt::format("[set_num_threads] threads = {}; give 1 to 4096, or 0 for as many as the machine grants", threads),
        [threads] {
          set_num_threads(threads);
          return 0;
        });
    EXPECT_EQ(gqmm_set_num_threads(threads), -1);
    EXPECT_EQ(get_num_threads(), 2);
  }
  EXPECT_EQ(gqmm_set_num_threads(0), 0);
  EXPECT_EQ(get_num_threads(), available_threads());
}

}  // namespace
}  // namespace gqmm::threads
