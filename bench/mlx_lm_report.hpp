// The figures of `gqmm bench mlx-lm` in three notations.
#pragma once

#include "machine.hpp"

#include <nlohmann/json.hpp>

#include <iosfwd>
#include <string>

namespace gqmm::bench {

struct MlxLmReport {
  Machine machine;
  std::string command;
  std::string date;
  nlohmann::ordered_json settings;  ///< as bench/mlx_lm_layer.py takes them
  nlohmann::ordered_json figures;   ///< as it answers, samples replaced by their summaries
  bool has_aims = false;            ///< the settings are those that the aims are for
};

/// The script's figures with a summary in place of every list of samples, rates and numbers of repetitions.
nlohmann::ordered_json summarized(const nlohmann::ordered_json& figures);

/// `format`: table, markdown or json.
void write(std::ostream& out, const MlxLmReport& report, const std::string& format);

}  // namespace gqmm::bench
