// `gqmm bench` in the program that has it (CMake's option GQMM_BUILD_BENCH).
#include "cli_test_support.hpp"

#include <filesystem>
#include <fstream>
#include <string>

namespace gqmm::cli {
namespace {

TEST_F(Cli, HelpExplainsBenchWithExamples) {
  const Outcome outcome = run("bench --help");
  EXPECT_EQ(outcome.status, 0);
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "Examples:\n  gqmm bench", outcome.out);
}

TEST_F(Cli, WrongUsageOfBenchIsStatusTwoAndOneLineOnStderr) {
  expect_error("bench --tokens abc", "--tokens: 'abc' is not a whole number above 0; see `gqmm bench --help`");
}

TEST_F(Cli, BenchComparesSavedFiguresAndFailsWhereACaseIsSlower) {
  const auto save = [&](const std::string& name, const std::string& cpu, double fraction) {
    const auto limit = [&](const char* what) {
      return json{{"limit", what}, {"measured_by", "an instruction"}, {"fraction", {{"median", fraction}}}};
    };
    const json figures = {{"name", "a case"},
                          {"repetitions", 9},
                          {"bound_by", "int8 dot"},
                          {"seconds", {{"median", 1e-3}}},
                          {"memory", limit("DRAM read")},
                          {"arithmetic", limit("int8 dot")}};
    std::ofstream(folder_.path() / name) << json{
        {"gqmm_bench", 1}, {"machine", {{"cpu", cpu}, {"processors", 2}}}, {"cases", {figures}}};
  };
  save("old.json", "Example CPU", 0.40);
  save("new.json", "Example CPU", 0.37);
  save("other.json", "Other CPU", 0.40);
  const Outcome slower = run("bench --compare old.json --measured new.json");
  EXPECT_EQ(slower.status, 1);
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "1 slower by more than 5 %", slower.out);
  EXPECT_EQ(run("bench --compare old.json --measured new.json --tolerance 10%").status, 0);
  EXPECT_EQ(run("bench --compare new.json --measured old.json").status, 0);
  expect_error("bench --compare other.json --measured new.json", "another machine, Other CPU (2 processors)");
  expect_error("bench --compare missing.json --measured new.json", "missing.json");
  std::ofstream(folder_.path() / "cut.json")
      << R"({"gqmm_bench": 1, "machine": {"cpu": "x", "processors": 2}, "cases": [{"name": "a"}]})";
  expect_error("bench --compare cut.json --measured new.json", "cut.json: case \"a\": nothing where a whole number should be");
  expect_error("bench --compare old.json --measured new.json --tolerance lots", "--tolerance = 'lots' is not a fraction");
}

}  // namespace
}  // namespace gqmm::cli
