// What operands of recurrences have in common, for their tests.
#pragma once

#include "conformance/support/attention_operands.hpp"
#include "conformance/support/random.hpp"
#include "formats/float_types.hpp"

#include <gqmm/gqmm.hpp>

#include <cstdint>

namespace gqmm::conformance {

struct RecurrenceExtents {
  std::int64_t B;
  std::int64_t T;
  std::int64_t Hk;
  std::int64_t Hv;
  std::int64_t Dk;
  std::int64_t Dv;

  [[nodiscard]] static RecurrenceExtents random(Random& random) {
    constexpr std::int64_t depths[] = {1, 4, 16, 17, 32, 48, 64, 128};
    constexpr std::int64_t groups[] = {1, 1, 2, 3};
    const std::int64_t Hk = random.integer(1, 3);
    return {.B = random.integer(1, 3),
            .T = random.chance(0.3) ? 1 : random.integer(1, 50),
            .Hk = Hk,
            .Hv = Hk * random.one_of(groups),
            .Dk = random.one_of(depths),
            .Dv = random.one_of(depths)};
  }
};

inline array uniform(const Shape& shape, Dtype dtype, Random& random, double low = 0, double high = 1) {
  array values = array::empty(shape, dtype);
  for (std::int64_t i = 0; i < values.size(); ++i) {
    detail::store_float(values.mutable_bytes() + i * values.itemsize(), dtype, static_cast<float>(random.uniform(low, high)));
  }
  return values;
}

/// Often a state, and often a mask.
template <class Options>
void draw_state_and_mask(const RecurrenceExtents& e, Options& options, Random& random) {
  if (random.chance(0.6)) {
    options.state = in_any_layout(normal({e.B, e.Hv, e.Dv, e.Dk}, Dtype::float32, random), random);
  }
  if (random.chance(0.4)) {
    array mask = array::empty({e.B, e.T}, Dtype::bool_);
    for (std::int64_t i = 0; i < mask.size(); ++i) {
      mask.mutable_bytes()[i] = static_cast<std::byte>(random.chance(0.8) ? 1 : 0);
    }
    options.mask = in_any_layout(mask, random);
  }
}

}  // namespace gqmm::conformance
