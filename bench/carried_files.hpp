// Files beside the sources that the program carries, so that it works from wherever it is installed.
#pragma once

#include <string_view>

namespace gqmm::bench {

extern const std::string_view peers_script;        ///< bench/peers.py
extern const std::string_view mlx_lm_script;       ///< bench/mlx_lm_layer.py
extern const std::string_view choice_counts_text;  ///< bench/learned_routing.txt

}  // namespace gqmm::bench
