// Figures in four notations.
#pragma once

#include "machine.hpp"
#include "measure.hpp"

#include <iosfwd>
#include <string>
#include <vector>

namespace gqmm::bench {

struct Report {
  Machine machine;
  std::string suite;  ///< empty: cases that the command line named
  std::string command;
  std::string date;
  MeasureOptions options;
  std::vector<CaseFigures> cases;
};

/// For a terminal: aligned columns.
void write_table(std::ostream& out, const Report& report);
/// The tables and how their figures were made.
void write_markdown(std::ostream& out, const Report& report);
/// A line per case and per peer, SI units.
void write_csv(std::ostream& out, const Report& report);
/// Everything, SI units. docs/benchmarks.md names the fields.
void write_json(std::ostream& out, const Report& report);

/// By name: table, markdown, csv, json. Throws std::invalid_argument for another.
void write(std::ostream& out, const Report& report, const std::string& format);

}  // namespace gqmm::bench
