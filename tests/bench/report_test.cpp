#include "report/report.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

namespace gqmm::bench {
namespace {

Report example() {
  Report report;
  report.machine.cpu = "Example CPU";
  report.command = "gqmm bench --tokens 8";
  report.date = "2030-01-02";
  CaseFigures figures;
  figures.settings.shape = shape_from_name("qwen3-30b-a3b/gate");
  figures.settings.tokens = 8;
  figures.settings.isa = "scalar";
  figures.repetitions = 9;
  figures.rejected = 2;
  figures.experts_hit = 32;
  figures.seconds = summarize({2e-3});
  figures.arithmetic = {Limit::int8_dot, "an instruction", summarize({1e12}), summarize({0.25})};
  figures.memory = {Limit::dram_read, "4 streams, no prefetch", summarize({40e9}), summarize({0.75})};
  figures.binding = Limit::dram_read;
  Peer peer = {"slow library", "1.2", "the same, with care", "", 0.03};
  Peer missing = {"absent library", "", "", "not installed", 0};
  figures.peers = {{peer, summarize({0.2}), summarize({100}), 3}, {missing, {}, {}, 0}};
  report.cases = {figures, figures};
  report.cases[1].settings.dtype = Dtype::float32;
  return report;
}

std::string written(const std::string& format) {
  std::ostringstream out;
  write(out, example(), format);
  return out.str();
}

TEST(Report, JsonHoldsTheFiguresInSiUnits) {
  const auto document = nlohmann::json::parse(written("json"));
  EXPECT_EQ(document.at("command"), "gqmm bench --tokens 8");
  EXPECT_EQ(document.at("machine").at("cpu"), "Example CPU");
  const auto& figures = document.at("cases").at(0);
  EXPECT_EQ(figures.at("seconds").at("median"), 2e-3);
  EXPECT_EQ(figures.at("arithmetic").at("fraction").at("median"), 0.25);
  EXPECT_EQ(figures.at("memory").at("per_second").at("median"), 40e9);
  EXPECT_EQ(figures.at("bound_by"), "DRAM read");
  EXPECT_EQ(figures.at("rows_per_expert"), 2);
  EXPECT_EQ(figures.at("peers").at(0).at("times_slower").at("median"), 100);
  EXPECT_EQ(figures.at("peers").at(0).at("relative_error"), 0.03);
  EXPECT_EQ(figures.at("peers").at(1).at("skipped"), "not installed");
}

TEST(Report, TheRevisionStandsBesideTheVersionIfItIsKnown) {
  Report report = example();
  report.machine.library_version = "1.2.3";
  std::ostringstream unknown;
  write(unknown, report, "table");
  EXPECT_NE(unknown.str().find("gqmm 1.2.3 ("), std::string::npos) << unknown.str();
  report.machine.library_revision = "abc1234";
  for (const char* format : {"table", "markdown", "json"}) {
    std::ostringstream out;
    write(out, report, format);
    const char* const part = std::string(format) == "json" ? R"("gqmm_revision": "abc1234")" : "gqmm 1.2.3, revision abc1234 (";
    EXPECT_NE(out.str().find(part), std::string::npos) << out.str();
  }
}

TEST(Report, EveryCsvLineHasAllColumns) {
  std::istringstream lines(written("csv"));
  std::ptrdiff_t columns = 0;
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const auto commas = std::count(line.begin(), line.end(), ',');
    columns = count == 0 ? commas : columns;
    EXPECT_EQ(commas, columns) << line;
  }
  EXPECT_EQ(count, 1 + 2 * 2);
}

// A case is named after the folder of its checkpoint, which may have any name.
TEST(Report, CsvDoublesQuotesInNames) {
  Report report = example();
  report.cases.resize(1);
  report.cases.front().settings.shape.name = R"(my "best", model/gate)";
  report.cases.front().peers.clear();
  std::ostringstream out;
  write(out, report, "csv");
  EXPECT_NE(out.str().find("\n\"my \"\"best\"\", model/gate T=8 "), std::string::npos) << out.str();
}

TEST(Report, EveryMarkdownRowHasTheColumnsOfItsTable) {
  std::istringstream lines(written("markdown"));
  std::ptrdiff_t columns = 0;
  int rows = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.front() != '|') {
      columns = 0;
      continue;
    }
    const auto bars = std::count(line.begin(), line.end(), '|');
    columns = columns == 0 ? bars : columns;
    EXPECT_EQ(bars, columns) << line;
    ++rows;
  }
  EXPECT_EQ(rows, 2 * (2 + 2));
}

TEST(Report, TablesTellTimesFractionsRejectionsAndPeers) {
  for (const char* format : {"table", "markdown"}) {
    const std::string text = written(format);
    for (const char* part : {"2.00 ms", "0.250 int8", "0.750", "2 of 11", "slow library", "100", "3e-02",
                             "absent library: not installed", "4 streams, no prefetch", "Example CPU"}) {
      EXPECT_NE(text.find(part), std::string::npos) << format << " lacks '" << part << "':\n" << text;
    }
  }
}

TEST(Report, TheLimitsSuiteHasATableOfFractionsByRowsAndPrecision) {
  Report report = example();
  report.suite = "limits";
  report.cases[0].settings.packed = true;
  for (const char* format : {"table", "markdown"}) {
    std::ostringstream out;
    write(out, report, format);
    for (const char* part :
         {"Fractions of the limit that binds", "packed, bfloat16 default", "in place, float32 default", "0.750 DRAM"}) {
      EXPECT_NE(out.str().find(part), std::string::npos) << format << " lacks '" << part << "':\n" << out.str();
    }
  }
}

TEST(Report, TheTableOfFractionsHasRowsForEachInstructionSet) {
  Report report = example();
  report.suite = "limits";
  report.cases[1] = report.cases[0];
  std::ostringstream one;
  write(one, report, "markdown");
  EXPECT_NE(one.str().find("\n| threads | rows/expert |"), std::string::npos) << one.str();
  report.cases[1].settings.isa = "avx2";
  report.cases[1].memory.fraction = summarize({0.5});
  std::ostringstream two;
  write(two, report, "markdown");
  for (const char* part : {"| isa | threads |", "| avx2 | 1 | 2 | 32 | 0.500 DRAM |", "| scalar | 1 | 2 | 32 | 0.750 DRAM |"}) {
    EXPECT_NE(two.str().find(part), std::string::npos) << '\'' << part << "' is not in\n" << two.str();
  }
}

TEST(Report, ACaseOfWhichMostRepetitionsWereRejectedIsMarked) {
  Report report = example();
  report.suite = "limits";
  for (const char* format : {"table", "markdown"}) {
    for (const int accepted : {5, 4, 0}) {
      report.cases[0].repetitions = accepted;
      report.cases[0].rejected = 9 - accepted;
      const std::string mark = accepted == 5 ? "" : accepted > 0 ? " (?)" : " (!)";
      std::ostringstream out;
      write(out, report, format);
      const std::string text = out.str();
      for (const std::string part : {"2.00 ms", "0.750 DRAM", accepted == 5 ? "4 of 9" : accepted == 4 ? "5 of 9" : "9 of 9"}) {
        EXPECT_NE(text.find(part + mark), std::string::npos) << format << " lacks '" << part + mark << "':\n" << text;
      }
      EXPECT_EQ(text.find("(?) The machine changed") != std::string::npos, accepted == 4) << text;
      EXPECT_EQ(text.find("(!) The machine changed") != std::string::npos, accepted == 0) << text;
    }
  }
}

TEST(Report, WeightsInCacheHaveNoFractionOfDram) {
  Report report = example();
  report.cases[0].settings.cached = true;
  report.cases[0].memory.fraction = summarize({7.0});
  std::ostringstream out;
  write(out, report, "markdown");
  EXPECT_EQ(out.str().find("7.000"), std::string::npos) << out.str();
  EXPECT_NE(out.str().find("cached"), std::string::npos) << out.str();
}

TEST(Report, AnUnknownNotationIsAnError) { EXPECT_THROW(written("yaml"), std::invalid_argument); }

TEST(Report, FileNamesOfMachinesAreLowerCaseWords) {
  MachineFacts machine;
  machine.cpu = "AMD EPYC 9965 (192-Core), family 26 model 17";
  EXPECT_EQ(file_name_of(machine), "amd-epyc-9965-192-core-family-26-model-17");
}

}  // namespace
}  // namespace gqmm::bench
