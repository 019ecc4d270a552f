// The speeds that `gqmm bench mlx-lm` shall reach.
#pragma once

#include "mlx_lm/turns.hpp"

#include <optional>
#include <string>

namespace gqmm::bench {

/// How fast gqmm shall be: a number of times as fast as another side, or a fraction of DRAM's limit. If there are both, the
/// lesser one is enough.
struct Aim {
  std::optional<double> times = {};
  Who other = Who::stock;
  std::optional<double> of_dram = {};
};

/// Returns the aim of a case of a model with so many layers, for a side by its name. The aims are of single layers and of models
/// with linear layers beside stock MLX, and of several layers beside llama.cpp.
std::optional<Aim> aim_of(std::int64_t layers, bool has_linear_layers, const std::string& case_name, const std::string& side);

/// The seconds that a tiny call may cost more than stock MLX's.
inline constexpr double tiny_aim = 3e-6;

}  // namespace gqmm::bench
