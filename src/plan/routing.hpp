// Routing: which rows each expert multiplies.
#pragma once

#include "namespaces.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace gqmm::detail {

/// The pairs that one expert serves: order[first, last) of a Routing.
struct Segment {
  std::int64_t expert;
  std::int64_t first;
  std::int64_t last;
};

/// The number of an expert that does not exist. A pair with it has a result of zeros and reads nothing.
inline constexpr std::int64_t no_expert = -1;

struct Routing {
  std::vector<std::int64_t> order;    // numbers of pairs that have an expert, sorted by it; in their original order within one
  std::vector<Segment> segments;      // the experts that are hit, ascending
  std::vector<std::int64_t> missing;  // numbers of pairs without an expert, ascending
};

/// Sorts the pairs by expert; the sort is stable. In general it is a counting sort, O(pairs + experts). If there are far more
/// experts than pairs, it is a comparison sort, so that experts that are not hit cost nothing. `sorted` says that rhs ascends
/// already. Entries of rhs lie in 0 … experts − 1, or are no_expert.
Routing route(std::span<const std::int64_t> rhs, std::int64_t experts, bool sorted);

}  // namespace gqmm::detail
