// An emulator without an extension must not get its instructions, and one with it should.
#include <gqmm/system.hpp>

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace gqmm::conformance {
namespace {

TEST(InstructionSets, AreThoseOfTheEmulatedProcessor) {
  const std::string cpu = std::getenv("QEMU_CPU") != nullptr ? std::getenv("QEMU_CPU") : "";
  EXPECT_EQ(active_instruction_set(), cpu == "max"           ? "neon-i8mm"
                                      : cpu == "neoverse-n1" ? "neon-dotprod"
                                                             : "an unknown QEMU_CPU, " + cpu);
}

}  // namespace
}  // namespace gqmm::conformance
