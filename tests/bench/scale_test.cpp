#include "bench/command_errors.hpp"
#include "report/report_parts.hpp"
#include "scale/scale_figures.hpp"
#include "scale/scale_report.hpp"

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

TEST(ScaleCommand, ContradictionsAreErrorsWithARemedy) {
  for (const auto& [arguments, part] : {std::pair{"--hidden 100", "--hidden = 100 is not a multiple of 64"},
                                        {"--width 96", "--width = 96 is not a multiple of 64"},
                                        {"--experts 4", "--top = 8 exceeds --experts = 4"},
                                        {"--experts 8 --ranks 1,16", "--ranks = 16 exceeds --experts = 8"},
                                        {"--python none", "name one that has mpi4py and gqmm with --python"},
                                        {"--python no/such/python", "--python = 'no/such/python' is not a program"}}) {
    const std::string message = message_of(std::string("scale ") + arguments);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  EXPECT_EQ(message_of("scale --ranks 0"), "--ranks: '0' is not a whole number above 0");
}

TEST(ScaleCommand, OptionsOfOtherBenchmarksAreRefused) {
  EXPECT_THROW(run("--suite small scale"), CLI::ExcludesError);
  EXPECT_THROW(run("mixtral-8x7b scale"), CLI::ExcludesError);
}

TEST(ScaleCommand, APythonThatEndsIsAnError) { EXPECT_THROW(run("scale --pool 1 --python /bin/true"), std::runtime_error); }

TEST(ScalePlan, RanksShareTheThreadsAndHaveOneAtLeast) {
  EXPECT_EQ(threads_of_rank(8, 2), 4);
  EXPECT_EQ(threads_of_rank(3, 2), 1);
  EXPECT_EQ(threads_of_rank(2, 4), 1);
}

/// A layer that needs 2 · 3 · 64 · 64 · 2 · 4 operations for 4 tokens, and hits every one of its 2 experts.
Case layer() {
  Case result;
  result.shape = {"tiny/layer", 2, 64, 64, 2, false, true};
  result.tokens = 4;
  return result;
}

/// A turn of a machine on which that layer takes 1 s in integers of two slices, and DRAM half of that.
RankTurn turn(int round, double seconds, double exchange_seconds, double int8_after = 2.0 * 2 * 3 * 64 * 64 * 2 * 4) {
  const double int8 = 2 * layer().operations();
  const double dram = 2 * layer().bytes(2);
  return {{seconds, {}, {int8, 1, dram}, {int8_after, 1, dram}, round}, exchange_seconds, 1000.0, seconds / 2};
}

TEST(ScaleFigures, TheShareIsThatOfEachTurn) {
  const json figures = figures_of(layer(), 2, 1, {turn(0, 4, 1), turn(1, 5, 2), turn(2, 6, 3)});
  EXPECT_EQ(figures.at("tokens"), 4);
  EXPECT_EQ(figures.at("ranks"), 2);
  EXPECT_EQ(figures.at("seconds").at("median"), 5);
  EXPECT_EQ(figures.at("exchange_seconds").at("median"), 2);
  EXPECT_EQ(figures.at("exchange_share").at("median"), 2.0 / 5);
  EXPECT_EQ(figures.at("bytes_per_token"), 1000);
  EXPECT_EQ(figures.at("of_dram").at("median"), 0.5 / 5);
  EXPECT_EQ(figures.at("bound_by"), "arithmetic");
}

TEST(ScaleFigures, PlainMoeFfnHasTheLimitsOfItsOwnTime) {
  const json alone = figures_of(layer(), 1, 2, {turn(0, 4, 1), turn(1, 4, 1)}).at("alone");
  EXPECT_EQ(alone.at("seconds").at("median"), 2);
  EXPECT_EQ(alone.at("of_dram").at("median"), 0.5 / 2);
  RankTurn of_several = turn(0, 4, 1);
  of_several.alone_seconds.reset();
  EXPECT_FALSE(figures_of(layer(), 2, 1, {of_several}).contains("alone"));
}

TEST(ScaleFigures, UnsteadyTurnsCountForNoFigure) {
  const json figures = figures_of(layer(), 2, 1, {turn(0, 4, 1), turn(1, 9, 8, 1.5 * layer().operations())});
  EXPECT_EQ(figures.at("unsteady"), 1);
  EXPECT_EQ(figures.at("seconds").at("most"), 4);
  EXPECT_EQ(figures.at("exchange_share").at("most"), 0.25);
}

ScaleReport report() {
  json one = figures_of(layer(), 1, 2, {turn(0, 4, 1)});
  one["speed_up"] = to_json(summarize({1.0}));
  json two = figures_of(layer(), 2, 1, {turn(0, 5, 2), turn(1, 5, 2)});
  two.erase("alone");
  two["speed_up"] = nullptr;
  ScaleReport result = {{}, "gqmm bench scale", "2026-05-31", {{"layer", "2 experts"}}, {}};
  result.figures = {
      {"versions", {{"python", "3.11.2"}, {"gqmm", "7.8.9"}, {"mpi4py", "4.5.6"}, {"numpy", "2.0"}, {"mpi", "MPICH 5"}}},
      {"limits", {{"int8 dot", "vpdpbusd zmm"}}},
      {"cases", json::array({one, two})},
      {"dispatch", {{"tokens", 1}, {"seconds", to_json(summarize({40e-6}))}}}};
  return result;
}

std::string written(const std::string& format) {
  std::ostringstream text;
  write(text, report(), format);
  return text.str();
}

TEST(ScaleReport, JsonHasTheFiguresOfEveryNumberOfRanks) {
  const json document = json::parse(written("json"));
  EXPECT_EQ(document.at("gqmm_bench_scale"), 1);
  EXPECT_EQ(document.at("cases").at(1).at("exchange_share").at("median"), 2.0 / 5);
  EXPECT_EQ(document.at("settings").at("layer"), "2 experts");
}

TEST(ScaleReport, TablesHaveWhatAReaderLooksFor) {
  for (const char* format : {"table", "markdown"}) {
    const std::string text = written(format);
    for (const char* part : {"MPICH 5", "2 experts", "moe_ffn", "1 rank", "2 ranks", "40.0 %", "1.00", "4.00 s", "1000",
                             "takes 40.0 us with 1 token:"}) {
      EXPECT_NE(text.find(part), std::string::npos) << part << " is not in\n" << text;
    }
  }
}

}  // namespace
}  // namespace gqmm::bench
