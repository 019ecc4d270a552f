// The speeds that `gqmm bench mlx-lm` shall reach.
#pragma once

#include "mlx_lm/turns.hpp"

#include <optional>
#include <string>

namespace gqmm::bench {

/// How many times as fast as another side gqmm shall be.
struct Aim {
  double times = 0;
  Who other = Who::stock;
  std::optional<double> of_dram = {};  ///< the fraction of DRAM's limit that is enough, if it is the lesser aim
};

/// Returns the aim of a case of a model with so many layers, for a side by its name. The aims are of single layers beside stock
/// MLX, and of several layers beside llama.cpp.
std::optional<Aim> aim_of(std::int64_t layers, const std::string& case_name, const std::string& side);

/// The seconds that a tiny call may cost more than stock MLX's.
inline constexpr double tiny_aim = 3e-6;

}  // namespace gqmm::bench
