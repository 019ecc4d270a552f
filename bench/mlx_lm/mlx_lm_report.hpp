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
  nlohmann::ordered_json settings;  ///< the settings that bench/mlx_lm/mlx_lm_layer.py takes
  nlohmann::ordered_json figures;   ///< the script's answer, with summaries in the place of samples
  bool has_aims = false;            ///< whether the aims hold for these settings
};

/// Replaces each list of samples in the script's figures by a summary, with its rate and its number of repetitions.
nlohmann::ordered_json summarized(const nlohmann::ordered_json& figures);

/// Writes the report. `format` is table, markdown or json.
void write(std::ostream& out, const MlxLmReport& report, const std::string& format);

}  // namespace gqmm::bench
