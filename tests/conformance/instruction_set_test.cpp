// Which instruction set runs: what GQMM_ISA says, and what the processor is really given. Each question is asked of a process of
// its own, because the environment is read once.
#include "conformance/support/check.hpp"
#include "cpu/instruction_set_names.hpp"

#include <sys/wait.h>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace gqmm::conformance {
namespace {

struct Answer {
  int status;
  std::string text;
};

// Runs the probe with "NAME=value …" in its environment.
Answer ask(const std::string& environment, const std::string& question) {
  const std::string command =
      fmt::format("env -u GQMM_ISA -u OMP_NUM_THREADS {} '{}' {} 2>&1", environment, GQMM_CONFORMANCE_PROBE, question);
  std::FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) {
    throw std::runtime_error("popen failed: " + command);
  }
  Answer answer = {};
  std::array<char, 4096> buffer;
  for (std::size_t count = 0; (count = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    answer.text.append(buffer.data(), count);
  }
  answer.status = WEXITSTATUS(pclose(pipe));
  while (!answer.text.empty() && answer.text.back() == '\n') {
    answer.text.pop_back();
  }
  return answer;
}

TEST(InstructionSets, ScalarIsAlwaysThereAndTheMostCapableIsUsed) {
  const std::vector<InstructionSet> sets = instruction_sets();
  ASSERT_FALSE(sets.empty());
  EXPECT_EQ(sets.front().name, "scalar");
  EXPECT_TRUE(sets.front().supported);
  const Answer answer = ask("", "isa");
  EXPECT_EQ(answer.status, 0);
  EXPECT_EQ(answer.text, supported_instruction_sets().back());
}

TEST(InstructionSets, TheEnvironmentPinsOne) {
  for (const std::string& name : supported_instruction_sets()) {
    const Answer answer = ask("GQMM_ISA=" + name, "isa");
    EXPECT_EQ(answer.status, 0);
    EXPECT_EQ(answer.text, name);
  }
}

TEST(InstructionSets, AnUnknownNameInTheEnvironmentIsAnErrorThatListsTheKnown) {
  for (const std::string name : {"avx9", "AVX2", "scalar,avx2", "native"}) {
    const Answer answer = ask("GQMM_ISA=" + name, "isa");
    EXPECT_EQ(answer.status, 3) << answer.text;
    EXPECT_NE(answer.text.find(name), std::string::npos) << answer.text;
    for (const InstructionSet& set : instruction_sets()) {
      EXPECT_NE(answer.text.find('"' + set.name + '"'), std::string::npos) << answer.text;
    }
  }
}

TEST(InstructionSets, AnUnsupportedNameIsAnErrorThatSaysWhatIsMissing) {
  bool any = false;
  for (const InstructionSet& set : instruction_sets()) {
    if (set.supported) {
      continue;
    }
    any = true;
    const Answer answer = ask("GQMM_ISA=" + set.name, "isa");
    EXPECT_EQ(answer.status, 3) << answer.text;
    EXPECT_NE(answer.text.find(set.description), std::string::npos) << answer.text;
    EXPECT_THROW(set_instruction_set(set.name), std::invalid_argument);
  }
  if (!any) {
    GTEST_SKIP() << "this machine supports every instruction set of the build";
  }
}

TEST(InstructionSets, SettingAnUnknownOneThrowsAndChangesNothing) {
  const std::string before(active_instruction_set());
  EXPECT_THROW(set_instruction_set("avx9"), std::invalid_argument);
  EXPECT_THROW(set_instruction_set(""), std::invalid_argument);
  EXPECT_EQ(active_instruction_set(), before);
}

TEST(InstructionSets, FormerNamesMeanWhatTheyMeant) {
  const RestoreInstructionSet restore;
  for (const auto& [alias, name] : cpu::instruction_set_aliases) {
    SCOPED_TRACE(alias);
    const std::vector<InstructionSet> sets = instruction_sets();
    const auto set = std::find_if(sets.begin(), sets.end(), [&](const InstructionSet& each) { return each.name == name; });
    EXPECT_TRUE(std::none_of(sets.begin(), sets.end(), [&](const InstructionSet& each) { return each.name == alias; }));
    const Answer answer = ask(fmt::format("GQMM_ISA={}", alias), "isa");
    if (set != sets.end() && set->supported) {
      EXPECT_EQ(answer.status, 0);
      EXPECT_EQ(answer.text, name);
      set_instruction_set(alias);
      EXPECT_EQ(active_instruction_set(), name);
    } else {
      EXPECT_EQ(answer.status, 3) << answer.text;
      EXPECT_NE(answer.text.find(fmt::format("GQMM_ISA = \"{}\"", alias)), std::string::npos) << answer.text;
      EXPECT_THROW(set_instruction_set(alias), std::invalid_argument);
    }
  }
}

// The names could lie; the encodings of the executed instructions cannot. All of the library outside its kernels is compiled for
// the baseline, so that a single VEX or EVEX instruction betrays a kernel of another instruction set (or an inline function of
// one that the linker picked for everybody).
TEST(InstructionSets, TheProcessorExecutesThePinnedOne) {
#if defined(GQMM_SANITIZED) || !defined(__x86_64__) || defined(__AVX__)
  GTEST_SKIP() << "needs an x86-64 build for the baseline, without sanitizers";
#else
  for (const std::string& name : supported_instruction_sets()) {
    SCOPED_TRACE(name);
    const Answer answer = ask("GQMM_ISA=" + name, "encodings");
    ASSERT_EQ(answer.status, 0) << answer.text;
    if (answer.text == "untraced") {
      GTEST_SKIP() << "this system does not deliver the trap of single steps";
    }
    const bool vex = answer.text.find(" vex") != std::string::npos;
    const bool evex = answer.text.find(" evex") != std::string::npos;
    EXPECT_EQ(vex, name != "scalar") << answer.text;
    EXPECT_EQ(evex, name.starts_with("avx512")) << answer.text;
  }
#endif
}

TEST(ThreadCount, OmpNumThreadsIsHonoured) {
  const int available = std::stoi(ask("", "threads").text);
  EXPECT_GE(available, 1);
  for (const int wanted : {1, 2, 64}) {
    const Answer answer = ask(fmt::format("OMP_NUM_THREADS={}", wanted), "threads");
    ASSERT_EQ(answer.status, 0) << answer.text;
    const std::size_t space = answer.text.find(' ');
    ASSERT_NE(space, std::string::npos) << answer.text;
    EXPECT_EQ(std::stoi(answer.text), std::min(wanted, available));
    EXPECT_LE(std::stoi(answer.text.substr(space)), std::min(wanted, available)) << "threads of the process after a product";
  }
}

TEST(ThreadCount, TheAffinityMaskIsHonoured) {
  // The first CPU of the mask, whatever its number.
  const Answer answer = ask("taskset -c $(taskset -cp $$ | sed -E 's/.*: ([0-9]+).*/\\1/')", "threads");
  if (answer.text.find("taskset") != std::string::npos) {
    GTEST_SKIP() << "taskset is missing";
  }
  ASSERT_EQ(answer.status, 0) << answer.text;
  EXPECT_EQ(answer.text, "1 1");
}

}  // namespace
}  // namespace gqmm::conformance
