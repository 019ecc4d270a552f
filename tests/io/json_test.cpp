#include "io/json.hpp"

#include "io_test_files.hpp"

#include <string>

namespace gqmm::io {
namespace {

std::string repeated(std::string_view text, std::size_t count) {
  std::string result;
  for (std::size_t i = 0; i < count; ++i) {
    result += text;
  }
  return result;
}

TEST(Json, NestingIsLimited) {
  const auto nested = [](std::size_t depth) { return repeated("[", depth) + repeated("]", depth); };
  EXPECT_NO_THROW((void)parse_json(nested(max_json_depth), "file"));
  EXPECT_ERROR_WITH(parse_json(nested(max_json_depth + 1), "file"), "[file] JSON nested more than 64 deep");
  EXPECT_ERROR_WITH(parse_json(repeated("[", 1'000'000), "file"), "nested more than 64 deep");
  EXPECT_ERROR_WITH(parse_json(repeated("{\"a\":", 1'000'000), "file"), "nested more than 64 deep");
}

TEST(Json, ManyObjectsTakeNoMoreThanTheirShareOfTime) {
  // With time growing as the square of their number, this would take minutes.
  EXPECT_EQ(parse_json("[" + repeated("{\"a\":{}},", 200'000) + "0]", "file").size(), 200'001U);
}

TEST(Json, TheNumberOfValuesIsLimited) {
  EXPECT_ERROR_WITH(parse_json("[" + repeated("0,", max_json_values) + "0]", "file"), "more than 2000000 JSON values");
}

TEST(Json, TheSizeIsLimited) {
  EXPECT_ERROR_WITH(parse_json(std::string(max_json_bytes + 1, ' '), "file"), "100000001 bytes of JSON");
}

TEST(Json, AKeyTwiceInOneObjectIsAnErrorButNotInTwoObjects) {
  EXPECT_NO_THROW((void)parse_json(R"({"a": {"b": 1}, "c": {"b": 1}})", "file"));
  EXPECT_ERROR_WITH(parse_json(R"({"a": 1, "b": {"a": 1}, "a": 2})", "file"), "the key \"a\" appears twice");
}

TEST(Json, ErrorsSayWhereAndStayShort) {
  EXPECT_ERROR_WITH(parse_json("{\n\"a\" 1}", "file"), "line 2, column");
  EXPECT_ERROR_WITH(parse_json("1e999", "file"), "not valid JSON: number overflow");
  EXPECT_ERROR_WITH(parse_json("", "file"), "not valid JSON");
  EXPECT_LT(error_of([] { (void)parse_json("\"" + std::string(100'000, 'x'), "file"); }).size(), 500U);
}

}  // namespace
}  // namespace gqmm::io
