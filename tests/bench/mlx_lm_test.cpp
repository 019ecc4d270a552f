#include "bench/command_errors.hpp"
#include "mlx_lm/aims.hpp"
#include "mlx_lm/mlx_lm_report.hpp"
#include "mlx_lm/turns.hpp"
#include "report/report_parts.hpp"

#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace gqmm::bench {
namespace {

using json = nlohmann::ordered_json;

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

TEST(MlxLmCommand, AModelThatIsNotKnownIsAnErrorWithTheNames) {
  const std::string message = message_of("mlx-lm --model qwen9");
  EXPECT_NE(message.find("'qwen9'"), std::string::npos) << message;
  EXPECT_NE(message.find("qwen3-30b-a3b, gpt-oss-20b, qwen3-4b"), std::string::npos) << message;
}

TEST(MlxLmCommand, WindowsNeedAnEvenNumberOfLayers) {
  const std::string message = message_of("mlx-lm --model gpt-oss-20b --layers 3");
  EXPECT_NE(message.find("--layers = 3"), std::string::npos) << message;
  EXPECT_NE(message.find("use 4"), std::string::npos) << message;
}

TEST(MlxLmCommand, LinearLayersComeInWholePeriods) {
  const std::string message = message_of("mlx-lm --model qwen3-next-80b-a3b --layers 6");
  EXPECT_NE(message.find("--layers = 6 is not a multiple of 4"), std::string::npos) << message;
  EXPECT_NE(message.find("use 8"), std::string::npos) << message;
}

TEST(MlxLmFigures, ShapesWithLinearLayersSaySo) {
  const std::string linear = description_of(to_json(model_from_name("qwen3-next-80b-a3b")));
  EXPECT_NE(linear.find("in every 4th layer, else 16 heads of keys and 32 of values with states of 128 x 128"), std::string::npos)
      << linear;
  const std::string mamba = description_of(to_json(model_from_name("nemotron-3-nano-30b-a3b")));
  EXPECT_NE(mamba.find("else 8 heads of keys and 64 of values with states of 64 x 128"), std::string::npos) << mamba;
  EXPECT_EQ(description_of(to_json(model_from_name("qwen3-4b"))).find("states"), std::string::npos);
}

/// Turns of a side. The machine does 100 int8 and 10 fma operations and reads 50 bytes per second.
Turn turn(int round, double seconds, double int8_after = 100, double dram_after = 50) {
  return {seconds, 0.0625, {100, 10, 50}, {int8_after, 10, dram_after}, round};
}

/// A call that the machine's arithmetic needs 1 s for, or 2 s with two slices, and DRAM 1.5 s.
const json work = {{"products", 90}, {"attention", 1}, {"weight_bytes", 60}, {"cache_bytes", 15}};

const ModelSide bfloat16 = {Who::gqmm, "bfloat16", "default", false};
const ModelSide fast = {Who::gqmm, "bfloat16", "fast", false};
const ModelSide llama = {Who::llama, "", "default", false};
const ModelSide stock = {Who::stock, "bfloat16", "default", false};

TEST(MlxLmFigures, FractionsAreOfTheLimitsAroundATurn) {
  const json figures = figures_of(bfloat16, {turn(0, 4), turn(1, 5), turn(2, 6)}, work, 64);
  EXPECT_EQ(figures.at("seconds").at("median"), 5);
  EXPECT_EQ(figures.at("tokens_per_second"), 64.0 / 5);
  EXPECT_EQ(figures.at("of_arithmetic").at("median"), (0.9 + 0.1) / 5);
  EXPECT_EQ(figures.at("of_dram").at("median"), 1.5 / 5);
  EXPECT_EQ(figures.at("other_programs"), 0.0625);
}

TEST(MlxLmFigures, OtherProgramsAreNullWhereTheyAreNotMeasured) {
  Turn of_llama = turn(0, 4);
  of_llama.other_programs.reset();
  EXPECT_TRUE(figures_of(llama, {of_llama}, work, 64).at("other_programs").is_null());
}

TEST(MlxLmFigures, AimsOfDecodingHaveALimitOfDram) {
  EXPECT_EQ(aim_of(8, false, "decode after 64", "gqmm bfloat16").value().of_dram, 0.75);
  EXPECT_EQ(aim_of(8, false, "prompt of 512", "gqmm bfloat16").value().of_dram, std::nullopt);
  EXPECT_EQ(aim_of(1, false, "decode after 64", "gqmm bfloat16").value().of_dram, std::nullopt);
}

TEST(MlxLmFigures, AimsWithLinearLayersAreOfDramForATokenAndBesideStockForPrompts) {
  const Aim of_token = aim_of(4, true, "decode after 512", "gqmm float32").value();
  EXPECT_EQ(of_token.of_dram, 0.8);
  EXPECT_EQ(of_token.times, std::nullopt);
  EXPECT_EQ(aim_of(4, true, "prompt of 2048", "gqmm bfloat16").value().times, 20);
  EXPECT_EQ(aim_of(4, true, "prompt of 2048", "MLX bfloat16"), std::nullopt);
}

TEST(MlxLmFigures, SlicesDecideWhichLimitBinds) {
  EXPECT_EQ(figures_of(bfloat16, {turn(0, 4)}, work, 64).at("bound_by"), "arithmetic");
  EXPECT_EQ(figures_of(fast, {turn(0, 4)}, work, 64).at("bound_by"), "DRAM");
  EXPECT_EQ(figures_of(llama, {turn(0, 4)}, work, 64).at("bound_by"), "DRAM");
}

TEST(MlxLmFigures, UnsteadyTurnsCountOnlyWithoutOthers) {
  const json mixed = figures_of(bfloat16, {turn(0, 4), turn(1, 9, 80)}, work, 64);
  EXPECT_EQ(mixed.at("seconds").at("most"), 4);
  EXPECT_EQ(mixed.at("turns"), 2);
  EXPECT_EQ(mixed.at("unsteady"), 1);
  EXPECT_EQ(figures_of(bfloat16, {turn(0, 9, 80)}, work, 64).at("seconds").at("median"), 9);
  EXPECT_EQ(figures_of(bfloat16, {turn(0, 9, 100, 40)}, work, 64).at("unsteady"), 0) << "DRAM does not bind this one";
  EXPECT_EQ(figures_of(fast, {turn(0, 9, 100, 40)}, work, 64).at("unsteady"), 1);
}

TEST(MlxLmFigures, SidesAreComparedWithinTheirRounds) {
  const std::vector<Turn> ours = {turn(0, 1), turn(1, 2), turn(2, 4)};
  EXPECT_EQ(times_faster(ours, {turn(0, 10), turn(2, 80)}).at("median"), 15);
  EXPECT_TRUE(times_faster(ours, {turn(3, 10)}).is_null());
}

TEST(MlxLmFigures, AReducedPrecisionIsForHalfTypesBesideTheDefault) {
  std::vector<std::string> names;
  for (const ModelSide& side : model_sides({"bfloat16", "float32"}, {"default", "fast"}, false, true)) {
    names.push_back(side.name());
  }
  EXPECT_EQ(names, (std::vector<std::string>{"gqmm bfloat16", "gqmm bfloat16 fast", "gqmm float32", "llama.cpp", "MLX bfloat16",
                                             "MLX float32"}));
  EXPECT_EQ(model_sides({"float32"}, {"fast"}, false, false).front().name(), "gqmm float32 fast");
}

/// A report of one model with one case and one breakdown.
MlxLmReport report(std::int64_t layers) {
  ModelShape shape = model_from_name("qwen3-30b-a3b");
  shape.layers = layers;
  json ours = figures_of(bfloat16, {turn(0, 4), turn(1, 5), turn(2, 6)}, work, 64);
  ours["times_llama"] = times_faster({turn(0, 4)}, {turn(0, 9)});
  ours["times_stock"] = times_faster({turn(0, 4)}, {turn(0, 400)});
  const json operations = {{{"operation", "moe_ffn"}, {"calls", 8}, {"ours", 2.0}, {"others", 0.0}},
                           {{"operation", "argpartition"}, {"calls", 8}, {"ours", 0.0}, {"others", 0.5}},
                           {{"operation", "add"}, {"calls", 3}, {"ours", 0.0}, {"others", 0.001}}};
  const json summary_of_4 = to_json(summarize({4.0}));
  const json breakdown = {{"case", "prompt of 64"},
                          {"side", "gqmm bfloat16"},
                          {"calls", 1},
                          {"alone", summary_of_4},
                          {"border", 1e-5},
                          {"ours_alone", to_json(summarize({3.0}))},
                          {"operations", operations},
                          {"counts", {{"ours", 123}, {"stock", 45}}}};
  const json prompt = {{"job", "prompt"},
                       {"tokens", 64},
                       {"requests", 1},
                       {"name", "prompt of 64"},
                       {"work", {{"bfloat16", work}}},
                       {"sides", {ours, {{"side", "MLX bfloat16"}, {"skipped", "not waited for: about 213 s"}}}}};
  const json model = {{"shape", to_json(shape)},
                      {"llama.cpp", {{"version", "9.9"}, {"formats", "q4_K"}}},
                      {"cases", json::array({prompt})},
                      {"differences", json::array({{{"side", "gqmm bfloat16"}, {"difference", 0.02}}})},
                      {"breakdowns", json::array({breakdown})},
                      {"routing", {{"steps", 64}, {"experts_hit", 126}, {"shared_with_step_before", 0.5}}}};
  const json tiny = {{"function", "gather_qmm"},
                     {"dtype", "float32"},
                     {"calls_per_eval", 100},
                     {"calls_per_turn", 200},
                     {"stock", to_json(summarize({5e-6, 6e-6}))},
                     {"ours", to_json(summarize({7e-6, 8e-6}))},
                     {"difference", to_json(summarize({2e-6, 2e-6}))}};
  MlxLmReport result = {{}, "gqmm bench mlx-lm", "2026-05-31", {{"pack", false}, {"repetitions", 3}, {"seconds", 30}}, {}};
  result.figures = {{"versions", {{"python", "3.11.2"}, {"mlx", "1.2.3"}, {"mlx-lm", "4.5.6"}, {"gqmm", "7.8.9"}}},
                    {"limits", {{"int8 dot", "vpdpbusd zmm"}}},
                    {"models", json::array({model})},
                    {"tiny_calls", json::array({tiny})}};
  return result;
}

std::string written(const MlxLmReport& report, const std::string& format) {
  std::ostringstream text;
  write(text, report, format);
  return text.str();
}

TEST(MlxLmReport, JsonHasTheFiguresOfEverySide) {
  const json document = json::parse(written(report(8), "json"));
  EXPECT_EQ(document.at("gqmm_bench_mlx_lm"), 2);
  const json& model = document.at("models").at(0);
  EXPECT_EQ(model.at("shape").at("layers"), 8);
  EXPECT_EQ(model.at("cases").at(0).at("sides").at(0).at("times_llama").at("median"), 2.25);
  EXPECT_EQ(model.at("breakdowns").at(0).at("operations").at(0).at("ours"), 2.0);
  EXPECT_EQ(document.at("tiny_calls").at(0).at("difference").at("median"), 2e-6);
}

TEST(MlxLmReport, TablesHaveWhatAReaderLooksFor) {
  for (const char* format : {"table", "markdown"}) {
    const std::string text = written(report(8), format);
    for (const char* part : {"mlx-lm 4.5.6", "llama-cpp-python 9.9, weights in q4_K", "12.8", "100.00", "2.25",
                             "not waited for: about 213 s", "0.200", "0.300", "arithmetic", "argpartition", "12.5 %", "500.00 ms",
                             "others, each below 0.5 %", "25.0 %", "123 calls of functions were gqmm's, and 45 were left to MLX",
                             "2.0 us", "64 decoding steps hit 126 of a layer's 128"}) {
      EXPECT_NE(text.find(part), std::string::npos) << part << " is not in\n" << text;
    }
  }
}

TEST(MlxLmReport, AimsAreOfALayerBesideStockAndOfModelsBesideLlama) {
  EXPECT_NE(written(report(1), "markdown").find("| 150 × MLX |"), std::string::npos);
  EXPECT_NE(written(report(8), "markdown").find("| 1.25 × llama.cpp |"), std::string::npos);
}

}  // namespace
}  // namespace gqmm::bench
