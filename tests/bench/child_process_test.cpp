#include "child_process.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <system_error>

namespace gqmm::bench {
namespace {

TEST(ChildProcess, AnswersLineByLine) {
  ChildProcess echo({"cat"});
  echo.write_line("first");
  EXPECT_EQ(echo.read_line(), "first");
  echo.write_line("second");
  echo.write_line(std::string(100000, 'x'));
  EXPECT_EQ(echo.read_line(), "second");
  EXPECT_EQ(echo.read_line(), std::string(100000, 'x'));
}

TEST(ChildProcess, AnEndedProgramIsAnErrorAndNotASignal) {
  ChildProcess ended({"true"});
  EXPECT_THROW(ended.read_line(), std::runtime_error);
  EXPECT_THROW(ended.write_line("anyone there?"), std::runtime_error);
}

TEST(ChildProcess, AMissingProgramIsAnError) { EXPECT_THROW(ChildProcess({"gqmm-no-such-program"}), std::system_error); }

}  // namespace
}  // namespace gqmm::bench
