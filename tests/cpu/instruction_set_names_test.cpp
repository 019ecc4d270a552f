#include "cpu/instruction_set_names.hpp"

#include <gtest/gtest.h>

namespace gqmm::cpu {
namespace {

TEST(InstructionSetNames, FormerOnesStandForThoseOfToday) {
  EXPECT_EQ(current_name("avx512"), "avx512vnni");
  EXPECT_EQ(current_name("neon"), "neon-dotprod");
  EXPECT_EQ(current_name("i8mm"), "neon-i8mm");
}

TEST(InstructionSetNames, OtherTextStaysAsItIs) {
  for (const char* name : {"scalar", "avx2", "avxvnni", "avx512bw", "avx512vnni", "avx512vbmi", "neon-dotprod", "neon-i8mm",
                           "AVX512", "avx512 ", ""}) {
    EXPECT_EQ(current_name(name), name);
  }
}

TEST(InstructionSetNames, NoNameIsAnAliasOfAnother) {
  for (const InstructionSetAlias& each : instruction_set_aliases) {
    EXPECT_EQ(current_name(each.name), each.name);
  }
}

}  // namespace
}  // namespace gqmm::cpu
