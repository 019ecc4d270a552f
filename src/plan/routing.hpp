// Which rows each expert multiplies.
#pragma once

#include <gqmm/export.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace gqmm {

/// The pairs that one expert serves: order[first, last) of a Routing.
struct Segment {
  std::int64_t expert;
  std::int64_t first;
  std::int64_t last;
};

struct Routing {
  std::vector<std::int64_t> order;  // pair numbers, by expert, in their original order within one
  std::vector<Segment> segments;    // experts that are hit, ascending
};

/// Stable sort of the pairs by expert: counting sort, O(pairs + experts); a comparison sort where experts far outnumber pairs, so
/// that experts that are not hit cost nothing. `sorted`: rhs ascends already.
GQMM_API Routing route(std::span<const std::int64_t> rhs, std::int64_t experts, bool sorted);

}  // namespace gqmm
