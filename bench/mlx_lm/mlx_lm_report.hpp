// Writes the figures of `gqmm bench mlx-lm` in three formats.
#pragma once

#include "report/origin.hpp"

#include <nlohmann/json.hpp>

#include <iosfwd>
#include <string>

namespace gqmm::bench {

struct MlxLmReport {
  MachineFacts machine;
  std::string command;
  std::string date;
  nlohmann::ordered_json settings;
  nlohmann::ordered_json figures;  ///< the answer of measure_models()
};

/// Writes the report. `format` is table, markdown or json.
void write(std::ostream& out, const MlxLmReport& report, const std::string& format);

}  // namespace gqmm::bench
