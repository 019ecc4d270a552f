#include "tools/child_process.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <system_error>

namespace gqmm::tools {
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
  const auto message_of = [](const auto& action) -> std::string {
    try {
      action();
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "no error";
  };
  const std::string expected = "[true] has ended without an answer; what it printed before says why";
  EXPECT_EQ(message_of([&] { ended.read_line(); }), expected);
  EXPECT_EQ(message_of([&] { ended.write_line("anyone there?"); }), expected);
}

TEST(ChildProcess, AMissingProgramIsAnError) { EXPECT_THROW(ChildProcess({"gqmm-no-such-program"}), std::system_error); }

}  // namespace
}  // namespace gqmm::tools
