#include "report/compare.hpp"

#include "cpu/instruction_set_names.hpp"
#include "io/error.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <unistd.h>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>

namespace gqmm::bench {
namespace {

using nlohmann::json;

json case_of(const std::string& name, double int8_fraction, double dram_fraction, const std::string& bound_by = "int8 dot") {
  const auto limit = [](const char* what, const char* how, double fraction) {
    return json{{"limit", what}, {"measured_by", how}, {"fraction", {{"median", fraction}}}};
  };
  return {{"name", name},
          {"repetitions", 9},
          {"bound_by", bound_by},
          {"seconds", {{"median", 1e-3}}},
          {"arithmetic", limit("int8 dot", "vpdpbusd zmm", int8_fraction)},
          {"memory", limit("DRAM read", "2 streams", dram_fraction)}};
}

json report_of(const std::vector<json>& cases) {
  return {{"gqmm_bench", 1}, {"machine", {{"cpu", "Example CPU"}, {"processors", 2}}}, {"cases", cases}};
}

template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

TEST(Compare, ACaseThatReachesLessOfItsLimitThanTheToleranceAllowsIsSlower) {
  const json before = report_of({case_of("a", 0.40, 0.1), case_of("b", 0.40, 0.1), case_of("c", 0.40, 0.1)});
  const json after = report_of({case_of("a", 0.37, 0.1), case_of("b", 0.39, 0.1), case_of("c", 0.44, 0.1)});
  const Comparison comparison = compare(before, after, 0.05);
  ASSERT_EQ(comparison.cases.size(), 3U);
  EXPECT_EQ(comparison.cases[0].verdict, Verdict::slower);
  EXPECT_EQ(comparison.cases[1].verdict, Verdict::same);
  EXPECT_EQ(comparison.cases[2].verdict, Verdict::faster);
  EXPECT_EQ(compare(before, after, 0.2).count(Verdict::same), 3);
  EXPECT_EQ(compare(before, after, 0.0).count(Verdict::slower), 2);
}

TEST(Compare, TheLimitThatBoundTheCaseCountsAndNotTheOther) {
  const json before = report_of({case_of("a", 0.1, 0.80, "DRAM read")});
  EXPECT_EQ(compare(before, report_of({case_of("a", 0.2, 0.60, "DRAM read")}), 0.05).count(Verdict::slower), 1);
  EXPECT_EQ(compare(before, report_of({case_of("a", 0.05, 0.80)}), 0.05).count(Verdict::same), 1);
}

TEST(Compare, CasesOfOnlyOneRunAreNamedAndDoNotFail) {
  const json before = report_of({case_of("both", 0.4, 0.1), case_of("gone", 0.4, 0.1)});
  const json after = report_of({case_of("new", 0.4, 0.1), case_of("both", 0.4, 0.1)});
  const Comparison comparison = compare(before, after, 0.05);
  ASSERT_EQ(comparison.cases.size(), 3U);
  EXPECT_EQ(comparison.cases[0].why, "not among the saved figures");
  EXPECT_EQ(comparison.cases[2].name, "gone");
  EXPECT_EQ(comparison.cases[2].why, "not measured this time");
  EXPECT_EQ(comparison.count(Verdict::slower), 0);
  EXPECT_EQ(comparison.count(Verdict::not_compared), 2);
}

TEST(Compare, RunsWithoutACaseInCommonAreAnError) {
  const json before = report_of({case_of("a", 0.4, 0.1)});
  EXPECT_NE(message_of([&] { compare(before, report_of({case_of("b", 0.4, 0.1)}), 0.05); }).find("no case"), std::string::npos);
}

TEST(Compare, AnotherMachineIsAnErrorThatNamesBoth) {
  const json before = report_of({case_of("a", 0.4, 0.1)});
  json after = before;
  after["machine"]["cpu"] = "Other CPU";
  const std::string message = message_of([&] { compare(before, after, 0.05); });
  EXPECT_NE(message.find("Example CPU (2 processors)"), std::string::npos) << message;
  EXPECT_NE(message.find("Other CPU (2 processors)"), std::string::npos) << message;
  after = before;
  after["machine"]["processors"] = 4;
  EXPECT_NE(message_of([&] { compare(before, after, 0.05); }), "no error");
}

TEST(Compare, OtherPagesAndAnotherPoolAreErrorsThatNameBoth) {
  json before = report_of({case_of("a", 0.4, 0.1)});
  json after = before;
  after["method"] = {{"weight_pages", "huge"}, {"pool_bytes", 64 << 20}};
  EXPECT_EQ(message_of([&] { compare(before, after, 0.05); }), "no error") << "an older file does not say";
  before["method"] = {{"weight_pages", "default"}, {"pool_bytes", 64 << 20}};
  std::string message = message_of([&] { compare(before, after, 0.05); });
  EXPECT_NE(message.find("with --pages default, these with --pages huge"), std::string::npos) << message;
  before["method"] = {{"weight_pages", "huge"}, {"pool_bytes", 256 << 20}};
  message = message_of([&] { compare(before, after, 0.05); });
  EXPECT_NE(message.find("with --pool 256, these with --pool 64"), std::string::npos) << message;
}

TEST(Compare, ACaseWithoutASteadyRepetitionSaysNothing) {
  const json before = report_of({case_of("a", 0.4, 0.1)});
  json after = report_of({case_of("a", 0.2, 0.1)});
  after["cases"][0]["repetitions"] = 0;
  const Comparison comparison = compare(before, after, 0.05);
  EXPECT_EQ(comparison.cases[0].verdict, Verdict::not_compared);
  EXPECT_NE(comparison.cases[0].why.find("during every repetition of this run"), std::string::npos);
}

TEST(Compare, AnotherInstructionIsAnotherLimitButAnotherWayOfReadingMemoryIsNot) {
  const json before = report_of({case_of("a", 0.4, 0.8), case_of("b", 0.4, 0.8, "DRAM read")});
  json after = before;
  for (json& each : after["cases"]) {
    each["arithmetic"]["measured_by"] = "vpmaddubsw ymm";
    each["memory"]["measured_by"] = "8 streams";
  }
  const Comparison comparison = compare(before, after, 0.05);
  EXPECT_EQ(comparison.cases[0].why, "the limit was measured with vpdpbusd zmm, and is with vpmaddubsw ymm now");
  EXPECT_EQ(comparison.cases[1].verdict, Verdict::same);
}

TEST(Compare, TheTableTellsBothFractionsTheChangeAndTheTotals) {
  const json before = report_of({case_of("a", 0.40, 0.1), case_of("b", 0.40, 0.1)});
  const Comparison comparison = compare(before, report_of({case_of("a", 0.30, 0.1)}), 0.05);
  for (const bool markdown : {false, true}) {
    std::ostringstream out;
    write_comparison(out, comparison, markdown);
    for (const char* part : {"0.4 ", "0.3 ", "-25.0 %", "SLOWER", "b: not measured this time",
                             "1 slower by more than 5 %, 0 faster, 0 the same, 1 not compared"}) {
      EXPECT_NE(out.str().find(part), std::string::npos) << "lacks '" << part << "':\n" << out.str();
    }
  }
}

TEST(Compare, FractionsAreReadAsNumbersAndAsPercentages) {
  EXPECT_DOUBLE_EQ(fraction_from_text("5%", "--tolerance"), 0.05);
  EXPECT_DOUBLE_EQ(fraction_from_text("0.05", "--tolerance"), 0.05);
  EXPECT_EQ(fraction_from_text("0", "--tolerance"), 0);
  for (const char* text : {"", "%", "5", "100%", "-1%", "5 %", "5%%", "five", "nan"}) {
    const std::string message = message_of([&] { fraction_from_text(text, "--tolerance"); });
    EXPECT_NE(message.find(std::string("--tolerance = '") + text), std::string::npos) << message;
  }
}

TEST(Compare, AFileWithoutFiguresIsAnErrorThatNamesIt) {
  EXPECT_THROW(read_figures("no/such/file.json"), io::FileError);
  const auto path = std::filesystem::temp_directory_path() / ("gqmm-compare-test-" + std::to_string(getpid()) + ".json");
  for (const char* text : {"[]", "{}", R"({"gqmm_bench": 1, "machine": {}, "cases": 3})"}) {
    std::ofstream(path) << text;
    EXPECT_NE(message_of([&] { read_figures(path); }).find(path.filename()), std::string::npos) << text;
  }
  const json whole = report_of({case_of("a", 0.4, 0.1), case_of("b", 0.4, 0.1)});
  std::ofstream(path) << whole;
  EXPECT_EQ(read_figures(path), whole);
  for (const char* pointer : {"/machine/cpu", "/machine/processors", "/cases/1", "/cases/1/name", "/cases/1/repetitions",
                              "/cases/1/bound_by", "/cases/1/seconds", "/cases/1/memory", "/cases/1/memory/fraction/median",
                              "/cases/1/memory/limit", "/cases/1/arithmetic/measured_by"}) {
    for (const json& value : {json(), json::array({3}), json("?\"")}) {
      json damaged = whole;
      damaged.at(json::json_pointer(pointer)) = value;
      std::ofstream(path) << damaged;
      const std::string message = message_of([&] { read_figures(path); });
      const bool fits = value.is_string() && whole.at(json::json_pointer(pointer)).is_string();
      EXPECT_EQ(message.find(path.filename()) == std::string::npos, fits) << pointer << ' ' << value << ": " << message;
    }
  }
  json damaged = whole;
  damaged["cases"][1].erase("memory");
  std::ofstream(path) << damaged;
  EXPECT_EQ(message_of([&] { read_figures(path); }),
            "[bench] " + path.string() +
                ": case \"b\": nothing where a text should be, at /memory/limit; the file is damaged, or of another gqmm");
  std::filesystem::remove(path);
}

TEST(Compare, FiguresUnderFormerNamesOfInstructionSetsCompareWithThoseOfToday) {
  const auto path = std::filesystem::temp_directory_path() / ("gqmm-compare-names-test-" + std::to_string(getpid()) + ".json");
  json before =
      report_of({case_of("avx512 model T=1 uniform avx512 1 thread", 0.4, 0.1), case_of("T=1 uniform avx2 1 thread", 0.4, 0.1)});
  before["cases"][0]["instruction_set"] = "avx512";
  before["cases"][1]["instruction_set"] = "avx2";
  std::ofstream(path) << before;
  const json read = read_figures(path);
  std::filesystem::remove(path);
  EXPECT_EQ(read["cases"][0]["name"], "avx512 model T=1 uniform avx512vnni 1 thread");
  EXPECT_EQ(read["cases"][0]["instruction_set"], "avx512vnni");
  EXPECT_EQ(read["cases"][1], before["cases"][1]);
  const json after = report_of({case_of("avx512 model T=1 uniform avx512vnni 1 thread", 0.4, 0.1)});
  EXPECT_EQ(compare(read, after, 0.05).count(Verdict::same), 1);
}

TEST(Compare, CommittedReportsHaveNoFormerNamesOnceRead) {
  int reports = 0;
  for (const auto& entry : std::filesystem::directory_iterator(GQMM_BENCH_RESULTS)) {
    const std::string file = entry.path().filename().string();
    if (!file.ends_with(".json") || file.starts_with("mlx-lm") || file.starts_with("scale")) {  // not figures of suites
      continue;
    }
    ++reports;
    const json report = read_figures(entry.path());
    for (const json& each : report["cases"]) {
      const std::string set = each["instruction_set"];
      const std::string name = each["name"];
      EXPECT_EQ(cpu::current_name(set), set) << entry.path();
      EXPECT_NE(name.find(" " + set + " "), std::string::npos) << entry.path() << ": " << name;
    }
  }
  EXPECT_GT(reports, 0);
}

}  // namespace
}  // namespace gqmm::bench
