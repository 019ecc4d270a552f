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
  EXPECT_ERROR_WITH(parse_json(nested(max_json_depth + 1), "file"), "[file] has JSON that is nested more than 64 deep");
  EXPECT_ERROR_WITH(parse_json(repeated("[", 1'000'000), "file"), "nested more than 64 deep");
  EXPECT_ERROR_WITH(parse_json(repeated("{\"a\":", 1'000'000), "file"), "nested more than 64 deep");
}

TEST(Json, ManyObjectsTakeNoMoreThanTheirShareOfTime) {
  // This would take minutes if the time grew with the square of the number of objects.
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

TEST(PythonJson, WhatIsNoFiniteNumberBecomesAStringAsWritten) {
  const nlohmann::json found = parse_python_json(
      R"({"a": NaN, "b": [Infinity, -Infinity,1e999,-1E+999], "c": "NaN, \"Infinity\" 1e999\\", "d": 1e-999, "e": 1.5, "NaN": -0})",
      "f", {});
  EXPECT_EQ(found["a"], "NaN");
  EXPECT_EQ(found["b"], (nlohmann::json{"Infinity", "-Infinity", "1e999", "-1E+999"}));
  EXPECT_EQ(found["c"], "NaN, \"Infinity\" 1e999\\");
  EXPECT_EQ(found["d"], 0.0);
  EXPECT_EQ(found["e"], 1.5);
  EXPECT_EQ(found["NaN"], 0);
  EXPECT_EQ(parse_python_json("1" + repeated("0", 400), "f", {}), "1" + repeated("0", 400));
}

TEST(PythonJson, WhatPythonRefusesIsAnError) {
  for (const char* text : {"{\"a\": nan}", "{\"a\": +Infinity}", "{\"a\": 1e}", "{\"a\": 1,}", "{\"a\": \"", "{\"a\": \"\\", "-",
                           "N", "\"", "NaN NaN"}) {
    EXPECT_ERROR_WITH(parse_python_json(text, "f", {}), "[f] is not valid JSON");
  }
}

TEST(PythonJson, OnlyTheKeysNamedAndThoseBelowMustBeUnique) {
  constexpr std::string_view unique[] = {"q"};
  EXPECT_EQ(parse_python_json(R"({"a": 1, "a": {"b": 1, "b": 2}})", "f", unique)["a"]["b"], 2) << "the last one, as in Python";
  EXPECT_ERROR_WITH(parse_python_json(R"({"a": {"q": 1, "q": 2}})", "f", unique), "the key \"q\" appears twice");
  EXPECT_ERROR_WITH(parse_python_json(R"({"q": [{"b": {"c": 1, "c": 2}}]})", "f", unique), "the key \"c\" appears twice");
  EXPECT_NO_THROW((void)parse_python_json(R"({"q": {"b": 1}, "c": 1, "c": {"b": 1, "b": 1}})", "f", unique));
}

TEST(PythonJson, TheLimitsHoldAndOtherKindsOfFilesAreNamed) {
  EXPECT_ERROR_WITH(parse_python_json(repeated("[", 1'000'000), "f", {}), "nested more than 64 deep");
  EXPECT_ERROR_WITH(parse_python_json(std::string(max_json_bytes + 1, ' '), "f", {}), "100000001 bytes of JSON");
  EXPECT_ERROR_WITH(parse_python_json("", "f", {}), "[f] is empty");
  EXPECT_ERROR_WITH(parse_python_json("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "f", {}),
                    "is a Git LFS pointer, not the file itself; run `git lfs pull`");
  EXPECT_ERROR_WITH(parse_python_json("<!DOCTYPE html>", "f", {}), "is a web page");
  EXPECT_ERROR_WITH(parse_python_json("\xff\xfe{", "f", {}), "UTF-16");
}

}  // namespace
}  // namespace gqmm::io
