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

extern const std::span<const CarriedModule> peers_modules;  ///< bench/peers/*.py but start.py
extern const std::string_view peers_start;                  ///< bench/peers/start.py
extern const std::string_view mlx_lm_script;                ///< bench/mlx_lm/mlx_lm_layer.py
extern const std::string_view choice_counts_text;           ///< bench/cases/learned_routing.txt

}  // namespace gqmm::bench
