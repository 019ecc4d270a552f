// Every instruction set of this (emulated) processor gives the bits of the machine that wrote the file GQMM_DIGESTS.
#include "conformance/support/check.hpp"
#include "conformance/support/digests.hpp"
#include "conformance/support/guarded_memory.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <utility>

namespace gqmm::conformance {
namespace {

using Digests = std::map<std::pair<std::string, int>, Digest>;

const Digests& expected_digests() {
  static const Digests digests = [] {
    Digests read;
    std::ifstream file(GQMM_DIGESTS);
    std::string name;
    int problem = 0;
    Digest digest = {};
    while (file >> name >> std::dec >> problem >> std::hex >> digest.operands >> digest.result) {
      read[{name, problem}] = digest;
    }
    return read;
  }();
  return digests;
}

class Bits : public ::testing::TestWithParam<Family> {};

TEST_P(Bits, AreThoseOfTheOtherMachine) {
  const RestoreInstructionSet restore;
  for (int number = 0; number < problems_of_a_family; ++number) {
    const DigestProblem problem(GetParam(), number);
    const auto expected = expected_digests().find({GetParam().name, number});
    ASSERT_NE(expected, expected_digests().end()) << "not in " << GQMM_DIGESTS;
    ASSERT_EQ(problem.operands_digest, expected->second.operands) << "the operands differ already: " << describe(problem.spec);
    for (const std::string& set : supported_instruction_sets()) {
      const std::string description = fmt::format("on {}: {}", set, describe(problem.spec));
      set_crash_note(description.c_str());
      set_instruction_set(set);
      EXPECT_EQ(problem.digest().result, expected->second.result) << description;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Bits, ::testing::ValuesIn(digest_families()),
                         [](const auto& family) { return family.param.name; });

// An emulator without an extension must not get its instructions, and one with it should.
TEST(InstructionSets, AreThoseOfTheEmulatedProcessor) {
  const std::string cpu = std::getenv("QEMU_CPU") != nullptr ? std::getenv("QEMU_CPU") : "";
  EXPECT_EQ(active_instruction_set(), cpu == "max"           ? "neon-i8mm"
                                      : cpu == "neoverse-n1" ? "neon-dotprod"
                                                             : "an unknown QEMU_CPU, " + cpu);
}

}  // namespace
}  // namespace gqmm::conformance
