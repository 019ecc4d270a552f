// What lies ahead of a thread that walks through the strips of its items.
#pragma once

#include "cpu/weights.hpp"
#include "plan/tiling.hpp"

#include <algorithm>
#include <cstdint>

namespace gqmm::cpu {

/// What at most `count` strips from strip `s` of the item on will read, or, where that is beyond its end, of the next one
/// (nullptr: there is none).
Ahead ahead(const Weights& weights, const Item& item, std::int64_t s, const Item* next, std::int64_t count);

/// Part `part` of `parts` of what lies ahead.
Ahead part_of(const Ahead& ahead, std::int64_t part, std::int64_t parts);

/// Asks for a line of every page. Kernels prefetch, too, but one page at a time, and instructions wait for each translation;
/// here many are under way at once.
void translate_pages(const Ahead& ahead);

/// What a kernel that asks for each line twice asks for the second time: `next`, the strip after this one, or, of packed weights,
/// which are read in the order of their memory, what follows 6 KiB on, as far as the next strip follows in memory (the last strip
/// of an expert is asked for once). If the loads and both times went through their pages in step, as strips of whole pages make
/// them, up to a tenth of the speed would be lost.
Ahead second_time(const WeightStrip& strip, const Ahead& next);

/// Calls function(s, part, StripStream) for every strip s of an item of transposed weights, `parts` times each: the decode
/// kernels read it from DRAM the first time, and in each part prefetch as much of what comes next.
template <class Function>
void for_each_strip(const Weights& weights, const Item& item, const Item* next, std::int64_t parts, bool prefetch_to_l2,
                    Function function) {
  constexpr std::int64_t window_bytes = 256 * 1024;  // codes whose pages are translated in one go, twice as far ahead
  const std::int64_t window = std::max<std::int64_t>(1, window_bytes / (weights.words_of_row() * 4 * lanes));
  Ahead to_come = ahead(weights, item, 1, next, 1);
  for (std::int64_t s = 0; s < item.strips; ++s) {
    if (s % window == 0) {
      translate_pages(ahead(weights, item, std::min(s + window, item.strips), next, window));
    }
    const Ahead after_next = ahead(weights, item, s + 2, next, 1);
    const WeightStrip strip = weights.strip(item.expert, item.first_strip + s);
    const Ahead soon = prefetch_to_l2 && parts == 1 ? second_time(strip, to_come) : to_come;
    for (std::int64_t part = 0; part < parts; ++part) {
      function(s, part,
               StripStream{.strip = strip,
                           .next = part_of(soon, part, parts),
                           .after_next = part_of(after_next, part, parts),
                           .prefetch_to_l2 = prefetch_to_l2});
    }
    to_come = after_next;
  }
}

}  // namespace gqmm::cpu
