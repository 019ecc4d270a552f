#include "tools/progress.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace gqmm::tools {
namespace {

TEST(Progress, TheBarFillsWithWhatIsDone) {
  EXPECT_EQ(progress_line(0, "a case", 80), "[                        ]   0 %  a case");
  EXPECT_EQ(progress_line(0.25, "3 rejected  a case", 80), "[######                  ]  25 %  3 rejected  a case");
  EXPECT_EQ(progress_line(1, "a case", 80), "[########################] 100 %  a case");
  EXPECT_EQ(progress_line(7, "a case", 80), progress_line(1, "a case", 80));
  EXPECT_EQ(progress_line(-1, "a case", 80), progress_line(0, "a case", 80));
}

TEST(Progress, TheLineIsNoLongerThanTheTerminal) {
  for (const std::size_t columns : {0U, 10U, 33U, 40U, 41U, 200U}) {
    const std::string line = progress_line(0.5, "a case", columns);
    EXPECT_EQ(line, progress_line(0.5, "a case", 1000).substr(0, columns));
    EXPECT_EQ(line.size(), std::min<std::size_t>(columns, 40));
  }
}

}  // namespace
}  // namespace gqmm::tools
