// What kernels of recurrences share: passes over some rows of a state, and their sums over elements of k.
#pragma once

#include "cpu/kernels/each_vector.hpp"
#include "cpu/kernels/layer_table.hpp"
#include "cpu/simd/vocabulary.hpp"

namespace gqmm::cpu {
namespace {

/// Columns that share the loads of q, k and g. AVX-512 holds 4 chains of y, 4 of m and 4 δ beside these, and AVX2 half of that. 8
/// chains hide the latency of fma.
template <class V>
constexpr int columns_at_once = V::float_tile.nv > 1 ? 4 : 2;

/// The chains of 16 columns. Those of columns that are not there stay 0.
struct alignas(64) PartialSums {
  float of[lanes][lanes] = {};
};

/// The sums of all columns.
template <class V>
typename V::f32 total(const PartialSums& partial) {
  constexpr int words = 4;  // of a row that load_transposed takes
  typename V::f32 chain[lanes];
  for (int first = 0; first < lanes; first += words) {
    typename V::i32 piece[words];
    V::load_transposed(reinterpret_cast<const std::byte*>(&partial.of[0][first]), sizeof partial.of[0], piece);
    for (int j = 0; j < words; ++j) {
      chain[first + j] = V::as_f32(piece[j]);
    }
  }
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      chain[i] = V::add(chain[i], chain[i + half]);
    }
  }
  return chain[0];
}

/// The first `count` lanes, and zeros.
template <class V>
typename V::f32 first_lanes(typename V::f32 a, int count) {
  alignas(64) static constexpr std::int32_t ones[lanes] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
  return V::as_f32(V::bit_and(V::as_i32(a), V::load_words(reinterpret_cast<const std::byte*>(ones), count)));
}

/// Rows of a state.
template <class Byte>
struct StateRows {
  Byte* first;
  std::int64_t stride;

  [[nodiscard]] StateRows from(int column) const { return {first + column * stride, stride}; }
};

/// Calls function<n>(first) for groups of n columns: as many as are computed at once, and then single ones.
template <class V, class Function>
__attribute__((always_inline)) inline void for_each_group(int columns, const Function& function) {
  int first = 0;
  for (; first + columns_at_once<V> <= columns; first += columns_at_once<V>) {
    function.template operator()<columns_at_once<V>>(first);
  }
  for (; first < columns; ++first) {
    function.template operator()<1>(first);
  }
}

template <class V>
void copy_state(const RecurrenceArguments& a) {
  for (int column = 0; column < a.columns; ++column) {
    for_each_vector(a.Dk, [&](std::int64_t i, int count) {
      const auto s = V::as_f32(V::load_words(a.state + column * a.state_stride + 4 * i, count));
      V::store_words(a.next_state + column * a.next_stride + 4 * i, V::as_i32(V::canonical(s)), count);
    });
  }
}

}  // namespace
}  // namespace gqmm::cpu
