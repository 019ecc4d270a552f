// Prefetching for a thread that walks through the strips of its items: which memory it will read next, and when to ask for it.
#pragma once

#include "cpu/weight_view.hpp"
#include "plan/plan.hpp"

#include <algorithm>
#include <cstdint>

namespace gqmm::cpu {

/// The memory of up to `count` strips that the thread will read from strip `s` of the item on. If `s` is beyond the end of the
/// item, these are strips of the next item. `next` may be nullptr; then there are none.
PrefetchRanges upcoming_ranges(const WeightView& weights, const Item& item, std::int64_t s, const Item* next, std::int64_t count);

/// The part number `pass` of the ranges, if each range is cut into `passes` equal parts.
PrefetchRanges nth_part(const PrefetchRanges& ranges, std::int64_t pass, std::int64_t passes);

/// Prefetches one line of every page, so that the TLB holds the pages' translations before the kernels need them. Kernels
/// prefetch one page at a time, and their instructions wait for each translation. Here many translations are under way at once.
void warm_tlb(const PrefetchRanges& ranges);

/// The ranges of the second prefetch, for kernels that prefetch each line twice. In general this is `next`, the ranges of the
/// strip after `strip`. If packed strips follow each other in memory, it begins 6 KiB after the start of `strip` instead.
/// Otherwise, if strips are whole pages, the loads and both prefetches would move through their pages in step. That costs up to a
/// tenth of the speed. The last strip of an expert is then prefetched only once.
PrefetchRanges second_prefetch(const WeightStrip& strip, const PrefetchRanges& next);

/// Calls function(s, pass, StripStream) for every strip s of an item of transposed weights, `passes` times each. The decode
/// kernels read the strip from DRAM in the first pass. Each pass prefetches an equal part of the strips that come next.
template <class Function>
void for_each_strip(const WeightView& weights, const Item& item, const Item* next, std::int64_t passes, bool prefetch_to_l2,
                    Function function) {
  // The bytes of codes whose pages are translated together, up to two windows before their use.
  constexpr std::int64_t window_bytes = 256 * 1024;
  const std::int64_t window = std::max<std::int64_t>(1, window_bytes / (weights.words_of_row() * 4 * lanes));
  PrefetchRanges next_strip = upcoming_ranges(weights, item, 1, next, 1);
  for (std::int64_t s = 0; s < item.strips; ++s) {
    if (s % window == 0) {
      warm_tlb(upcoming_ranges(weights, item, std::min(s + window, item.strips), next, window));
    }
    const PrefetchRanges far = upcoming_ranges(weights, item, s + 2, next, 1);
    const WeightStrip strip = weights.strip(item.expert, item.first_strip + s);
    const PrefetchRanges near = prefetch_to_l2 && passes == 1 ? second_prefetch(strip, next_strip) : next_strip;
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      function(s, pass,
               StripStream{.strip = strip,
                           .near = nth_part(near, pass, passes),
                           .far = nth_part(far, pass, passes),
                           .prefetch_to_l2 = prefetch_to_l2});
    }
    next_strip = far;
  }
}

}  // namespace gqmm::cpu
