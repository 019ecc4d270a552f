// Files that are compiled into the program, so that it works wherever it is installed.
#pragma once

#include <span>
#include <string_view>

namespace gqmm::bench {

/// A module of a Python package.
struct CarriedModule {
  std::string_view name;
  std::string_view text;
};

// Each package has the package `worker` (bench/worker) beside it.
extern const std::string_view python_start;                  ///< bench/start.py, which runs a package
extern const std::span<const CarriedModule> peers_modules;   ///< bench/peers/*.py
extern const std::span<const CarriedModule> mlx_lm_modules;  ///< bench/mlx_lm/*.py, the package through_mlx_lm
extern const std::span<const CarriedModule> scale_modules;   ///< bench/scale/*.py
extern const std::string_view choice_counts_text;            ///< bench/cases/learned_routing.txt

}  // namespace gqmm::bench
