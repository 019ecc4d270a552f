#include "cpu/strip_prefetch.hpp"

namespace gqmm::cpu {

PrefetchRanges nth_part(const PrefetchRanges& ranges, std::int64_t pass, std::int64_t passes) {
  const auto cut = [&](const MemoryRange& range) {
    const std::int64_t first = range.bytes * pass / passes;
    return range.bytes == 0 ? MemoryRange{} : MemoryRange{range.begin + first, range.bytes * (pass + 1) / passes - first};
  };
  return {cut(ranges.codes), cut(ranges.scales), cut(ranges.biases)};
}

PrefetchRanges second_prefetch(const WeightStrip& strip, const PrefetchRanges& next) {
  constexpr std::int64_t lead = 6 * 1024;
  PrefetchRanges result = next;
  if (strip.packed && next.codes.bytes > lead && strip.codes + next.codes.bytes == next.codes.begin) {
    result.codes.begin = strip.codes + lead;
  }
  return result;
}

void warm_tlb(const PrefetchRanges& ranges) {
  constexpr std::int64_t page = 4096;
  for (const MemoryRange& range : {ranges.codes, ranges.scales, ranges.biases}) {
    for (std::int64_t at = 0; at < range.bytes; at += page) {
      __builtin_prefetch(range.begin + at, 0, 2);
    }
  }
}

}  // namespace gqmm::cpu
