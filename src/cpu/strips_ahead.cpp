#include "cpu/strips_ahead.hpp"

#include <algorithm>

namespace gqmm::cpu {

Ahead ahead(const Weights& weights, const Item& item, std::int64_t s, const Item* next, std::int64_t count) {
  const auto of = [&](const Item& any, std::int64_t first) {
    return first < any.strips ? weights.ahead(any.expert, any.first_strip + first, std::min(count, any.strips - first)) : Ahead{};
  };
  return s < item.strips ? of(item, s) : next != nullptr ? of(*next, s - item.strips) : Ahead{};
}

Ahead part_of(const Ahead& ahead, std::int64_t part, std::int64_t parts) {
  if (parts == 1) {
    return ahead;  // without a dozen divisions
  }
  const auto cut = [&](const Run& run) {
    const std::int64_t first = run.bytes * part / parts;
    return run.bytes == 0 ? Run{} : Run{run.begin + first, run.bytes * (part + 1) / parts - first};
  };
  return {cut(ahead.codes), cut(ahead.scales), cut(ahead.biases)};
}

Ahead second_time(const WeightStrip& strip, const Ahead& next) {
  constexpr std::int64_t lead = 6 * 1024;
  Ahead result = next;
  if (strip.packed && next.codes.bytes > lead && strip.codes + next.codes.bytes == next.codes.begin) {
    result.codes.begin = strip.codes + lead;
  }
  return result;
}

void translate_pages(const Ahead& ahead) {
  constexpr std::int64_t page = 4096;
  for (const Run& run : {ahead.codes, ahead.scales, ahead.biases}) {
    for (std::int64_t at = 0; at < run.bytes; at += page) {
      __builtin_prefetch(run.begin + at, 0, 2);
    }
  }
}

}  // namespace gqmm::cpu
