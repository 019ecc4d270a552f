// Prefetching for a thread that walks through the strips of its items: which memory it will read next, and when to ask for it.
#pragma once

#include "cpu/weight_view.hpp"
#include "plan/plan.hpp"

#include <algorithm>
#include <cstdint>

namespace gqmm::cpu {

/// The memory that a thread will read while it computes an item and the one after it.
class UpcomingStrips {
 public:
  /// `next` may be nullptr.
  UpcomingStrips(const WeightView& weights, const Item& item, const Item* next)
      : item_(item),
        next_(next),
        of_item_(weights.strips(item.expert)),
        of_next_(next != nullptr ? weights.strips(next->expert) : ExpertStrips()) {}

  [[nodiscard]] const ExpertStrips& of_item() const noexcept { return of_item_; }
  /// The memory of up to `count` strips from strip `s` of the item on. If `s` is beyond the end of the item, these are strips of
  /// the next item, if there is one.
  [[nodiscard]] PrefetchRanges ranges(std::int64_t s, std::int64_t count) const {
    if (s < item_.strips) {
      return of_item_.ranges(item_.first_strip + s, std::min(count, item_.strips - s));
    }
    const std::int64_t after = s - item_.strips;
    return next_ != nullptr && after < next_->strips
               ? of_next_.ranges(next_->first_strip + after, std::min(count, next_->strips - after))
               : PrefetchRanges{};
  }

 private:
  const Item& item_;
  const Item* next_;
  ExpertStrips of_item_;
  ExpertStrips of_next_;
};

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

/// Sets `stream` and calls function(s, pass) for every strip s of an item of transposed weights, `passes` times each. The decode
/// kernels read the strip from DRAM in the first pass. Each pass prefetches an equal part of the strips that come next.
template <class Function>
void for_each_strip(const WeightView& weights, const Item& item, const Item* next, std::int64_t passes, bool prefetch_to_l2,
                    StripStream& stream, Function function) {
  // The bytes of codes whose pages are translated together, up to two windows before their use.
  constexpr std::int64_t window_bytes = 256 * 1024;
  const std::int64_t window = std::max<std::int64_t>(1, window_bytes / (weights.words_of_row() * 4 * lanes));
  const UpcomingStrips upcoming(weights, item, next);
  PrefetchRanges next_strip = upcoming.ranges(1, 1);
  stream.prefetch_to_l2 = prefetch_to_l2;
  for (std::int64_t s = 0; s < item.strips; ++s) {
    if (s % window == 0) {
      warm_tlb(upcoming.ranges(std::min(s + window, item.strips), window));
    }
    const PrefetchRanges far = upcoming.ranges(s + 2, 1);
    stream.strip = upcoming.of_item().strip(item.first_strip + s);
    stream.near = prefetch_to_l2 && passes == 1 ? second_prefetch(stream.strip, next_strip) : next_strip;
    stream.far = far;
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      if (passes > 1) {  // a single one avoids a dozen divisions
        stream.near = nth_part(next_strip, pass, passes);
        stream.far = nth_part(far, pass, passes);
      }
      function(s, pass);
    }
    next_strip = far;
  }
}

}  // namespace gqmm::cpu
