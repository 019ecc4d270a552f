// Files that are compiled into the program, so that it works wherever it is installed.
#pragma once

#include <string_view>

namespace gqmm::bench {

extern const std::string_view peers_script;        ///< bench/peers/peers.py
extern const std::string_view mlx_lm_script;       ///< bench/mlx_lm/mlx_lm_layer.py
extern const std::string_view choice_counts_text;  ///< bench/cases/learned_routing.txt

}  // namespace gqmm::bench
