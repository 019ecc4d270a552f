#include "tools/machine.hpp"

#include <gtest/gtest.h>

#include <unistd.h>
#include <string>

namespace gqmm::tools {
namespace {

TEST(Machine, WhatLinuxAlwaysSaysIsThere) {
  EXPECT_FALSE(cpu_name().empty());
  EXPECT_TRUE(kernel_name().starts_with("Linux ")) << kernel_name();
  EXPECT_GE(processor_count(), 1);
  EXPECT_LE(processor_count(), sysconf(_SC_NPROCESSORS_CONF));
  EXPECT_GT(available_memory(), 0U);
  EXPECT_LE(available_memory(), physical_memory());
}

TEST(Machine, TheNameForReportsBeginsWithTheKernelsName) {
  if (!cpu_model()) {
    GTEST_SKIP() << "the kernel does not name the processor";
  }
  EXPECT_TRUE(cpu_name().starts_with(*cpu_model() + ", family ")) << cpu_name();
}

TEST(Machine, WhatTheSystemDoesNotSayHasNoValue) {
  EXPECT_EQ(huge_page_setting("no such setting"), std::nullopt);
  for (const char* setting : {"enabled", "defrag", "shmem_enabled"}) {
    if (const auto word = huge_page_setting(setting)) {
      EXPECT_EQ(word->find_first_of("[] "), std::string::npos) << *word;
    }
  }
}

}  // namespace
}  // namespace gqmm::tools
