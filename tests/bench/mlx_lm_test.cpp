#include "bench.hpp"
#include "mlx_lm/mlx_lm_report.hpp"

#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>

namespace gqmm::bench {
namespace {

using json = nlohmann::ordered_json;

void run(const std::string& arguments) {
  int exit_status = 0;
  CLI::App program;
  add_command(program, exit_status);
  program.parse("bench " + arguments);
}

std::string message_of(const std::string& arguments) {
  try {
    run(arguments);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

TEST(MlxLmCommand, ContradictionsAreErrorsWithARemedy) {
  EXPECT_THROW(run("mlx-lm --hidden 100"), std::invalid_argument);
  EXPECT_THROW(run("mlx-lm --experts 4"), std::invalid_argument);
  EXPECT_THROW(run("mlx-lm --kv-heads 5"), std::invalid_argument);
  EXPECT_THROW(run("mlx-lm --heads 8 --head-dim 4"), std::invalid_argument);
  EXPECT_THROW(run("mlx-lm --python none"), std::invalid_argument);
  EXPECT_THROW(run("mlx-lm --dtype float64"), CLI::ValidationError);
  EXPECT_NE(message_of("mlx-lm --python no/such/python").find("--python = 'no/such/python'"), std::string::npos);
}

TEST(MlxLmCommand, OptionsOfOtherBenchmarksAreRefused) {
  EXPECT_THROW(run("--tokens 3 mlx-lm"), CLI::ExcludesError);
  EXPECT_THROW(run("--suite small mlx-lm"), CLI::ExcludesError);
  EXPECT_THROW(run("mixtral-8x7b mlx-lm"), CLI::ExcludesError);
}

TEST(MlxLmCommand, OfAnOptionWithOneValueTheLastCounts) {
  EXPECT_NE(message_of("mlx-lm --python /bin/true --python no/such/python").find("no/such/python"), std::string::npos);
}

TEST(MlxLmCommand, APythonThatEndsIsAnError) { EXPECT_THROW(run("mlx-lm --python /bin/true"), std::runtime_error); }

/// What the script would answer, of one case.
json answer() {
  const json parts = {{{"part", "attention"}, {"products", 0.25}, {"around", 0.5}},
                      {{"part", "experts"}, {"products", 1.0}, {"around", 0.25}}};
  return {{"versions", {{"python", "3.11.2"}, {"mlx", "1.2.3"}, {"mlx-lm", "4.5.6"}, {"gqmm", "7.8.9"}}},
          {"cases",
           {{{"job", "prompt"},
             {"dtype", "float32"},
             {"difference", 2e-7},
             {"other_programs", 0.0625},
             {"expert_bytes", 1000000},
             {"tokens", 64},
             {"stock", {40.0, 32.0, 48.0}},
             {"ours", {2.0, 1.0, 4.0, 2.0}},
             {"times_faster", {20.0, 16.0, 24.0}},
             {"breakdown", {{"calls", 3}, {"alone", {1.5, 1.0, 3.0}}, {"parts", parts}}},
             {"calls", {{"ours", 123}, {"stock", 45}}}}}},
          {"tiny_calls",
           {{{"function", "gather_qmm"},
             {"dtype", "float32"},
             {"calls_per_eval", 100},
             {"calls_per_turn", 200},
             {"stock", {5e-6, 6e-6}},
             {"ours", {7e-6, 8e-6}},
             {"difference", {2e-6, 2e-6}}}}}};
}

MlxLmReport report(bool has_aims) {
  const json settings = {{"hidden", 2048}, {"experts", 128},         {"top", 8},        {"width", 768},
                         {"heads", 32},    {"kv_heads", 4},          {"head_dim", 128}, {"vocabulary", 256},
                         {"tokens", 64},   {"precision", "default"}, {"pack", false}};
  return {{}, "gqmm bench mlx-lm", "2026-05-31", settings, summarized(answer()), has_aims};
}

std::string written(const MlxLmReport& report, const std::string& format) {
  std::ostringstream text;
  write(text, report, format);
  return text.str();
}

TEST(MlxLmReport, JsonHasMediansRatesAndRepetitions) {
  const json document = json::parse(written(report(true), "json"));
  EXPECT_EQ(document.at("gqmm_bench_mlx_lm"), 1);
  const json& figures = document.at("cases").at(0);
  EXPECT_EQ(figures.at("stock").at("seconds").at("median"), 40);
  EXPECT_EQ(figures.at("stock").at("tokens_per_second"), 1.6);
  EXPECT_EQ(figures.at("stock").at("repetitions"), 3);
  EXPECT_EQ(figures.at("ours").at("tokens_per_second"), 32);
  EXPECT_EQ(figures.at("times_faster").at("least"), 16);
  EXPECT_EQ(figures.at("breakdown").at("alone").at("median"), 1.5);
  EXPECT_EQ(document.at("tiny_calls").at(0).at("difference").at("median"), 2e-6);
}

TEST(MlxLmReport, TablesHaveWhatAReaderLooksFor) {
  for (const char* format : {"table", "markdown"}) {
    const std::string text = written(report(true), format);
    for (const char* part : {"mlx-lm 4.5.6", "40.00 s", "2.00 s", "20.0", "6 %", "1.25 s", "62.5 %", "2.0 us",
                             "all parts take 2.00 s", "alone 1.50 s", "123 products were gqmm's, 45 left to MLX"}) {
      EXPECT_NE(text.find(part), std::string::npos) << part << " is not in\n" << text;
    }
  }
}

TEST(MlxLmReport, AimsStandBesideTheLayerThatTheyAreForAlone) {
  EXPECT_NE(written(report(true), "markdown").find("| 20 | 3 |"), std::string::npos);
  EXPECT_NE(written(report(false), "markdown").find("| - | 3 |"), std::string::npos);
}

}  // namespace
}  // namespace gqmm::bench
