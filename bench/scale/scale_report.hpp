// Writes the figures of `gqmm bench scale` in three formats.
#pragma once

#include "report/origin.hpp"

#include <nlohmann/json.hpp>

#include <iosfwd>
#include <string>

namespace gqmm::bench {

struct ScaleReport {
  MachineFacts machine;
  std::string command;
  std::string date;
  nlohmann::ordered_json settings;
  nlohmann::ordered_json figures;  ///< the answer of measure_scale()
};

/// Writes the report. `format` is table, markdown or json.
void write(std::ostream& out, const ScaleReport& report, const std::string& format);

}  // namespace gqmm::bench
