// Writes a report's figures in four formats.
#pragma once

#include "measure/measure.hpp"
#include "report/origin.hpp"

#include <iosfwd>
#include <string>
#include <vector>

namespace gqmm::bench {

struct Report {
  MachineFacts machine;
  std::string suite;  ///< the suite's name; empty for cases that the command line named
  std::string command;
  std::string date;
  MeasureOptions options;
  std::vector<CaseFigures> cases;
};

/// Writes tables with aligned columns, for a terminal.
void write_table(std::ostream& out, const Report& report);
/// Writes the tables in Markdown, and how their figures were made.
void write_markdown(std::ostream& out, const Report& report);
/// Writes a line for each case and each peer, in SI units.
void write_csv(std::ostream& out, const Report& report);
/// Writes everything, in SI units. docs/dev/benchmarking.md lists the fields.
void write_json(std::ostream& out, const Report& report);

/// Writes the report in the format of this name: table, markdown, csv or json. Throws std::invalid_argument for another name.
void write(std::ostream& out, const Report& report, const std::string& format);

}  // namespace gqmm::bench
