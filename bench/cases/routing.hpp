// The popularity of experts, which says how unevenly a trained router uses them.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace gqmm::bench {

/// Reads the counts that bench/cases/learned_routing.py printed: for each layer, one count per expert. Throws std::runtime_error
/// for other text.
std::vector<std::vector<double>> parse_choice_counts(std::string_view text);

/// Returns for each of `experts` experts the fraction of tokens that choose it. The most popular expert is the first. Each
/// fraction is in [0, 1], and their sum is `top`.
///
/// The fractions come from a Lorenz curve L, the mean over layers: the most popular fraction q of the experts gets the fraction
/// L(q) of the choices. Expert i of E gets top · (L((i + 1) / E) − L(i / E)), but at most 1. What exceeds 1 goes to the other
/// experts in proportion.
std::vector<double> popularity(const std::vector<std::vector<double>>& counts, std::int64_t experts, std::int64_t top);

/// Returns popularity() for the counts of the model in models/, which are compiled into the program.
std::vector<double> learned_popularity(std::int64_t experts, std::int64_t top);

}  // namespace gqmm::bench
