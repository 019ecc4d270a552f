#pragma once

#include <string_view>

namespace gqmm::bench {

/// The text of bench/peers.py, which the program carries so that it works from wherever it is installed.
extern const std::string_view peers_script;

}  // namespace gqmm::bench
