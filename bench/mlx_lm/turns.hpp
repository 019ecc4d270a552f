// Measures models through mlx-lm: the sides take turns, and the machine's limits are measured before and after each turn.
#pragma once

#include "mlx_lm/model_sides.hpp"

#include <nlohmann/json.hpp>

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace gqmm::bench {

struct ModelPlan {
  std::vector<ModelShape> shapes;
  std::vector<ModelCase> cases;
  std::vector<ModelCase> broken_down;  ///< the cases whose time is attributed to operations
  bool break_down_stock = false;       ///< whether stock MLX's time is attributed to operations as well
  std::vector<std::string> dtypes;
  std::vector<ModelSide> sides;
  std::string python;          ///< an interpreter with mlx-lm and gqmm
  std::string peers;           ///< an interpreter with llama-cpp-python; may be empty
  int repetitions = 3;         ///< turns of each side
  double seconds = 30;         ///< of stock MLX for each case; a call that would take longer is not waited for
  int tiny_turns = 0;          ///< repetitions of tiny calls; 0 for none
  std::size_t pool_bytes = 0;  ///< the bytes that the DRAM probe reads
  int threads = 1;
};

/// The machine's limits at one moment.
struct MachineRates {
  double int8 = 0;  ///< operations per second
  double fma = 0;
  double dram = 0;  ///< bytes per second
};

/// A turn of a side, with the limits before and after it.
struct Turn {
  double seconds = 0;                    ///< of one call
  std::optional<double> other_programs;  ///< their share of the processors' time; nothing where it is not measured
  MachineRates before;
  MachineRates after;
  int round = 0;
};

/// Returns the turns that count. A turn is unsteady if the limit that binds differs by more than a tenth before and after it.
/// Unsteady turns count only if there are no others.
std::vector<Turn> counted_turns(const ModelSide& side, const std::vector<Turn>& turns, const nlohmann::ordered_json& work);
/// Returns the figures of a side's turns, with summaries of those that count: seconds, tokens per second, the fractions of the
/// limits, and which limit binds.
nlohmann::ordered_json figures_of(const ModelSide& side, const std::vector<Turn>& turns, const nlohmann::ordered_json& work,
                                  double tokens);
/// Returns the median of the other side's seconds divided by this side's, over the rounds in which both had a turn; null without
/// such a round.
nlohmann::ordered_json times_faster(const std::vector<Turn>& turns, const std::vector<Turn>& others);

/// A function that gets the progress, from 0 to 1, and what is measured.
using ModelProgress = std::function<void(double done, const std::string& doing)>;

/// Measures everything, and returns the figures as the report takes them.
nlohmann::ordered_json measure_models(const ModelPlan& plan, const ModelProgress& progress);

}  // namespace gqmm::bench
