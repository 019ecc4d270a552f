// How unevenly a trained router uses its experts.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace gqmm::bench {

/// The choices that bench/learned_routing.py counted: by layer, one count per expert. Throws std::runtime_error for other text.
std::vector<std::vector<double>> parse_choice_counts(std::string_view text);

/// For each of `experts` experts, the most popular first, the share of tokens that choose it: in [0, 1], `top` in all.
///
/// Experts are ranked by popularity, and the most popular fraction q of them gets the fraction L(q) of the choices (a Lorenz
/// curve; the mean over layers). Expert i of E takes top · (L((i + 1) / E) − L(i / E)); what that leaves above one choice per
/// token goes to the others in proportion.
std::vector<double> popularity(const std::vector<std::vector<double>>& counts, std::int64_t experts, std::int64_t top);

/// popularity() of the counts that the program carries, of the model in models/.
std::vector<double> learned_popularity(std::int64_t experts, std::int64_t top);

}  // namespace gqmm::bench
