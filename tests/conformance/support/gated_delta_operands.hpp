// Operands of the gated delta rule for its tests.
#pragma once

#include "conformance/support/attention_operands.hpp"
#include "conformance/support/random.hpp"
#include "formats/float_types.hpp"

#include <gqmm/gqmm.hpp>

#include <cmath>
#include <cstdint>
#include <utility>

namespace gqmm::conformance {

/// A call with operands as models have them: keys of length 1, decay and beta between 0 and 1.
struct GatedDeltaCall {
  struct Extents {
    std::int64_t B;
    std::int64_t T;
    std::int64_t Hk;
    std::int64_t Hv;
    std::int64_t Dk;
    std::int64_t Dv;
  };

  array q;
  array k;
  array v;
  array g;
  array beta;
  GatedDeltaOptions options = {};

  /// Row-major operands of one type. No state, no mask, one factor of decay for a head.
  GatedDeltaCall(const Extents& e, Dtype type, std::uint64_t seed) {
    Random random(seed);
    const double length = 1 / std::sqrt(static_cast<double>(e.Dk));
    q = normal({e.B, e.T, e.Hk, e.Dk}, type, random, length);
    k = normal({e.B, e.T, e.Hk, e.Dk}, type, random, length);
    v = normal({e.B, e.T, e.Hv, e.Dv}, type, random);
    g = uniform({e.B, e.T, e.Hv}, type, random);
    beta = uniform({e.B, e.T, e.Hv}, type, random);
  }

  /// Operands of any shape, type and layout, often with a state and a mask.
  explicit GatedDeltaCall(std::uint64_t seed) : GatedDeltaCall(Random(seed)) {}

  [[nodiscard]] GatedDeltaResult run() const { return gated_delta_update(q, k, v, g, beta, options); }

  static array uniform(const Shape& shape, Dtype dtype, Random& random) {
    array values = array::empty(shape, dtype);
    for (std::int64_t i = 0; i < values.size(); ++i) {
      detail::store_float(values.mutable_bytes() + i * values.itemsize(), dtype, static_cast<float>(random.uniform()));
    }
    return values;
  }

 private:
  // Arguments in braces are evaluated from left to right; in parentheses, each compiler would draw them in an order of its own.
  explicit GatedDeltaCall(Random random) : GatedDeltaCall{random_extents(random), random.one_of(compute_types), random.bits()} {
    const Extents e = {v.dim(0), v.dim(1), k.dim(2), v.dim(2), k.dim(3), v.dim(3)};
    if (random.chance(0.4)) {
      g = uniform({e.B, e.T, e.Hv, e.Dk}, random.one_of(compute_types), random);
    }
    for (array* operand : {&q, &k, &v, &g, &beta}) {
      *operand = in_any_layout(*operand, random);
    }
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
  static Extents random_extents(Random& random) {
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

}  // namespace gqmm::conformance
