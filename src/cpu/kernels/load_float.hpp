// Loads elements of a compute float as float32.
#pragma once

#include "cpu/simd/vocabulary.hpp"

#include <gqmm/types.hpp>

namespace gqmm::cpu {
namespace {

/// Loads `count` elements of a compute float from the `i`-th on.
template <class V, Dtype dtype>
typename V::f32 load_compute_float(const std::byte* row, std::int64_t i, int count) {
  if constexpr (dtype == Dtype::float32) {
    return V::as_f32(V::load_words(row + 4 * i, count));
  } else if constexpr (dtype == Dtype::float16) {
    return V::from_f16(V::load_u16(row + 2 * i, count));
  } else {
    static_assert(dtype == Dtype::bfloat16);
    return V::as_f32(V::template shift_left<16>(V::load_u16(row + 2 * i, count)));
  }
}

}  // namespace
}  // namespace gqmm::cpu
