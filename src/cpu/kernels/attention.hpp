// The kernels of attention. A row of q against a block of keys:
//
//     s[j] = Σ_d q[d] · k[j][d]                     fma, d ascending
//     m = max s        p[j] = 2^(s[j] − m)          0 where key j is hidden
//     o = fma(Σ_j p[j] · v[j], fresh, o · old)      fma, j ascending
//
// Scores are in units of ln 2: q comes multiplied by scale · log2(e). A hidden key contributes p = 0, and a sum does not change
// by fma(0, v, o). So tiles may include hidden keys, or leave them out. Only if v is not finite does this fail, and then the row
// is computed again with its visible keys alone (cpu/attention_rows.hpp).
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/attention_table.hpp"
#include "cpu/kernels/elementary_functions.hpp"
#include "cpu/kernels/float_tile.hpp"
#include "cpu/kernels/load_float.hpp"
#include "cpu/kernels/row_prefetcher.hpp"
#include "cpu/kernels/rows.hpp"
#include "cpu/kernels/unrolled.hpp"

#include <limits>

namespace gqmm::cpu {
namespace {

constexpr Dtype dtype_of(FloatKind kind) {
  return kind == FloatKind::float16 ? Dtype::float16 : kind == FloatKind::bfloat16 ? Dtype::bfloat16 : Dtype::float32;
}
constexpr int bytes_of(FloatKind kind) { return kind == FloatKind::float32 ? 4 : 2; }
/// Elements of 16 bytes.
constexpr int elements_of_16_bytes(FloatKind kind) { return 16 / bytes_of(kind); }

/// Loads 16 bytes of each of 16 rows as floats: lane j of out[d] is element d of row j.
template <class V, FloatKind kind>
[[gnu::always_inline]] inline void load_transposed_floats(const std::byte* rows, std::int64_t stride,
                                                          typename V::f32 (&out)[elements_of_16_bytes(kind)]) {
  typename V::i32 words[4];
  V::load_transposed(rows, stride, words);
  for (int j = 0; j < 4; ++j) {
    if constexpr (kind == FloatKind::float32) {
      out[j] = V::as_f32(words[j]);
    } else if constexpr (kind == FloatKind::bfloat16) {
      out[2 * j] = V::as_f32(V::template shift_left<16>(words[j]));
      out[2 * j + 1] = V::as_f32(V::bit_and(words[j], V::broadcast(static_cast<std::int32_t>(0xffff0000U))));
    } else {
      out[2 * j] = V::from_f16(words[j]);
      out[2 * j + 1] = V::from_f16(V::template shift_right<16>(words[j]));
    }
  }
}

template <class V, FloatKind kind, int rows>
void scores_in_place(const ScoresInPlaceArguments& a) {
  constexpr int step = elements_of_16_bytes(kind);
  GQMM_ASSERT(a.depth >= step && a.depth % step == 0 && a.strips >= 0 && a.strips <= key_block / lanes);
  RowPrefetcher<V> prefetcher(a.prefetch);
  for (int strip = 0; strip < a.strips; ++strip) {
    const std::byte* keys = a.keys + strip * lanes * a.key_stride;
    const float* q = a.q;
    typename V::f32 sum[rows];
    for (int r = 0; r < rows; ++r) {
      sum[r] = V::broadcast(0.0F);
    }
#pragma GCC unroll 1
    for (std::int64_t d = 0; d < a.depth; d += step) {
      typename V::f32 k[step];
      load_transposed_floats<V, kind>(keys, a.key_stride, k);
      keys += 16;
      unrolled<4>([&]<int>() __attribute__((always_inline)) { prefetcher.next(); });  // 16 rows of 16 bytes are 4 lines
      for (int i = 0; i < step; ++i) {
        for (int r = 0; r < rows; ++r) {
          sum[r] = V::fma(V::broadcast(q[i * rows + r]), k[i], sum[r]);
        }
      }
      q += step * rows;
    }
    for (int r = 0; r < rows; ++r) {
      V::store(a.s + r * key_block + strip * lanes, sum[r]);
    }
  }
}

template <class V, FloatKind kind>
void pack_keys(const PackRowsArguments& a) {
  constexpr int step = elements_of_16_bytes(kind);
  GQMM_ASSERT(a.count == lanes && a.width >= step && a.width % step == 0);
  RowPrefetcher<V> prefetcher(a.prefetch);
  float* panel = a.panel;
  for (std::int64_t d = 0; d < a.width; d += step) {
    typename V::f32 k[step];
    load_transposed_floats<V, kind>(a.rows + d * bytes_of(kind), a.stride, k);
    unrolled<4>([&]<int>() __attribute__((always_inline)) { prefetcher.next(); });
    for (int i = 0; i < step; ++i) {
      V::store(panel + i * lanes, k[i]);
    }
    panel += step * lanes;
  }
}

template <class V, FloatKind kind>
void pack_values(const PackRowsArguments& a) {
  GQMM_ASSERT(a.count >= 0 && a.count <= key_block);
  for (std::int64_t d = 0; d < a.width; d += lanes) {
    const int count = a.width - d < lanes ? static_cast<int>(a.width - d) : lanes;
    float* strip = a.panel + d / lanes * a.strip_stride;
    for (int j = 0; j < a.count; ++j) {
      V::store(strip + j * lanes, load_compute_float<V, dtype_of(kind)>(a.rows + j * a.stride, d, count));
    }
  }
}

template <class V, int mr, int nv>
void score_tile(const ScoreTileArguments& a) {
  typename V::f32 sum[mr][nv];
  float_tile_sums<V, mr, nv>(a.tile, sum);
  for (int r = 0; r < mr; ++r) {
    for (int v = 0; v < nv; ++v) {
      V::store(a.s + r * key_block + v * lanes, sum[r][v]);
    }
  }
}

/// o = fma(sum, fresh, o · old)
template <class V>
[[gnu::always_inline]] inline void take_up(typename V::f32 sum, float* o, float old, float fresh) {
  V::store(o, V::fma(sum, V::broadcast(fresh), V::mul(V::load(o), V::broadcast(old))));
}

template <class V, int mr, int nv>
void value_tile(const ValueTileArguments& a) {
  typename V::f32 sum[mr][nv];
  float_tile_sums<V, mr, nv>(a.tile, sum);
  for (int r = 0; r < mr; ++r) {
    for (int v = 0; v < nv; ++v) {
      take_up<V>(sum[r][v], a.o + r * a.o_stride + v * lanes, a.old[r], a.fresh[r]);
    }
  }
}

/// The sums of values for `vectors` vectors of elements from `values` on. The last vector has `count` elements. Two whole vectors
/// of bfloat16 are one load: its even elements, then its odd ones.
template <class V, FloatKind kind, int rows, int vectors>
[[gnu::always_inline]] inline void sum_values(const ValuesInPlaceArguments& a, std::int64_t first, int count,
                                              RowPrefetcher<V>& prefetcher) {
  constexpr bool even_odd = kind == FloatKind::bfloat16 && vectors % 2 == 0;
  typename V::f32 sum[rows][vectors];
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < vectors; ++v) {
      sum[r][v] = V::broadcast(0.0F);
    }
  }
  const std::byte* value = a.values;
#pragma GCC unroll 1
  for (int j = 0; j < a.keys; ++j, value += a.value_stride) {
    typename V::f32 w[vectors];
    if constexpr (even_odd) {
      for (int v = 0; v < vectors; v += 2) {
        const auto words = V::load_words(value + (first + v * lanes) * 2, lanes);
        w[v] = V::as_f32(V::template shift_left<16>(words));
        w[v + 1] = V::as_f32(V::bit_and(words, V::broadcast(static_cast<std::int32_t>(0xffff0000U))));
      }
    } else {
      for (int v = 0; v < vectors; ++v) {
        w[v] = load_compute_float<V, dtype_of(kind)>(value, first + v * lanes, v == vectors - 1 ? count : lanes);
      }
    }
    unrolled<(vectors * lanes * bytes_of(kind) + line_bytes - 1) / line_bytes>(
        [&]<int>() __attribute__((always_inline)) { prefetcher.next(); });
    for (int r = 0; r < rows; ++r) {
      const auto p = V::broadcast(a.p[r * key_block + j]);
      for (int v = 0; v < vectors; ++v) {
        sum[r][v] = V::fma(p, w[v], sum[r][v]);
      }
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < vectors; ++v) {
      take_up<V>(sum[r][v], a.o + r * a.o_stride + first + v * lanes, a.old[r], a.fresh[r]);
    }
  }
}

template <class V, FloatKind kind, int rows>
void values_in_place(const ValuesInPlaceArguments& a) {
  GQMM_ASSERT(a.keys >= 0 && a.keys <= key_block);
  constexpr int vectors = rows * 4 <= V::float_gemv_rows ? 4 : 2;
  RowPrefetcher<V> prefetcher(a.prefetch);
  std::int64_t d = 0;
  for (; d + vectors * lanes <= a.width; d += vectors * lanes) {
    sum_values<V, kind, rows, vectors>(a, d, lanes, prefetcher);
  }
  if constexpr (vectors > 2) {
    for (; d + 2 * lanes <= a.width; d += 2 * lanes) {
      sum_values<V, kind, rows, 2>(a, d, lanes, prefetcher);
    }
  }
  for (; d < a.width; d += lanes) {
    sum_values<V, kind, rows, 1>(a, d, a.width - d < lanes ? static_cast<int>(a.width - d) : lanes, prefetcher);
  }
}

/// The numbers 0 … 15 as floats.
template <class V>
typename V::f32 lane_numbers() {
  alignas(line_bytes) static constexpr float numbers[lanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return V::load(numbers);
}

/// The scores of a strip as the mask leaves them: those of hidden keys are −Inf.
template <class V>
typename V::f32 masked_scores(typename V::f32 s, const VisibleKeys& visible, int strip) {
  const int first = strip * lanes;
  const auto hidden = V::broadcast(-std::numeric_limits<float>::infinity());
  if (visible.addend != nullptr) {
    const auto addend = V::load(visible.addend + first);
    // Not −Inf for the lowest number, which many programs use in the place of −Inf.
    s = V::max(V::broadcast(lowest_score), V::fma(addend, V::broadcast(log2_e), s));
    s = V::select_less(addend, V::broadcast(lowest_score), hidden, s);  // a key with −Inf is hidden, also if its score is a NaN
  }
  if (visible.begin > first || visible.end < first + lanes) {
    const auto number = lane_numbers<V>();
    s = V::select_less(number, V::broadcast(static_cast<float>(visible.begin - first)), hidden, s);
    s = V::select_less(number, V::broadcast(static_cast<float>(visible.end - first)), s, hidden);
  }
  if (visible.mask != nullptr) {
    const auto bytes = V::load_u8(reinterpret_cast<const std::byte*>(visible.mask) + first, lanes);
    s = V::select_less(V::broadcast(0.0F), V::to_f32(bytes), s, hidden);
  }
  return s;
}

/// Turns the scores of a row's strips into weights. Writes the sums of their lanes and returns their maximum.
template <class V>
float softmax_row(float* s, const VisibleKeys& visible, int strip_begin, int strip_end, float* sums) {
  auto largest = V::broadcast(lowest_score);
  const bool all = visible.mask == nullptr && visible.addend == nullptr && visible.begin <= strip_begin * lanes &&
                   visible.end >= strip_end * lanes;
  for (int strip = strip_begin; strip < strip_end; ++strip) {
    auto score = V::load(s + strip * lanes);
    if (!all) {
      score = masked_scores<V>(score, visible, strip);
      V::store(s + strip * lanes, score);
    }
    largest = V::max(score, largest);
  }
  const float maximum = V::reduce_max(largest);
  const auto shift = V::broadcast(maximum);
  auto sum = V::broadcast(0.0F);
  for (int strip = strip_begin; strip < strip_end; ++strip) {
    const auto p = exp2_nonpositive<V>(V::sub(V::load(s + strip * lanes), shift));
    sum = V::add(sum, p);
    V::store(s + strip * lanes, p);
  }
  V::store(sums, sum);
  return maximum;
}

/// The factors that bring up to 16 rows' states with maxima `into` and `from` to their common maximum, which goes to `into`.
template <class V>
void factors_of_merge(float* into, const float* from, int rows, float* old, float* fresh) {
  const auto load = [&](const float* numbers) {
    return V::as_f32(V::load_words(reinterpret_cast<const std::byte*>(numbers), rows));
  };
  const auto store = [&](float* numbers, typename V::f32 value) {
    V::store_words(reinterpret_cast<std::byte*>(numbers), V::as_i32(value), rows);
  };
  const auto a = load(into);
  const auto b = load(from);
  const auto top = V::max(a, b);
  store(old, exp2_nonpositive<V>(V::sub(a, top)));
  store(fresh, exp2_nonpositive<V>(V::sub(b, top)));
  store(into, top);
}

template <class V>
void softmax(const SoftmaxArguments& a) {
  GQMM_ASSERT(a.rows >= 1 && a.rows <= max_tile_rows);
  GQMM_ASSERT(a.strip_begin >= 0 && a.strip_begin <= a.strip_end && a.strip_end <= key_block / lanes);
  alignas(line_bytes) float maxima[lanes];
  alignas(line_bytes) float sums[max_tile_rows][lanes];
  for (int r = 0; r < a.rows; ++r) {
    maxima[r] = softmax_row<V>(a.s + r * key_block, a.visible[r], a.strip_begin, a.strip_end, sums[r]);
  }
  factors_of_merge<V>(a.state.maximum, maxima, a.rows, a.old, a.fresh);
  for (int r = 0; r < a.rows; ++r) {
    take_up<V>(V::load(sums[r]), a.state.sums + r * lanes, a.old[r], a.fresh[r]);
  }
}

template <class V>
void merge(const MergeArguments& a) {
  GQMM_ASSERT(a.width % lanes == 0);
  float old = 0;
  float fresh = 0;
  factors_of_merge<V>(a.into.maximum, a.from.maximum, 1, &old, &fresh);
  take_up<V>(V::load(a.from.sums), a.into.sums, old, fresh);
  for (std::int64_t d = 0; d < a.width; d += lanes) {
    take_up<V>(V::load(a.from_o + d), a.into_o + d, old, fresh);
  }
}

/// Adding 0 makes every zero positive. So it does not matter whether a sum met keys with p = 0 and a negative v.
template <class V>
bool finish(const float* sums, const float* o, std::int64_t width, float* y) {
  const auto factor = V::broadcast(1.0F / sum_of_lanes<V>(V::load(sums)));
  auto largest = V::broadcast(0);
  for (std::int64_t d = 0; d < width; d += lanes) {
    const int count = width - d < lanes ? static_cast<int>(width - d) : lanes;
    const auto loaded = V::as_f32(V::load_words(reinterpret_cast<const std::byte*>(o + d), count));
    const auto value = V::add(V::mul(loaded, factor), V::broadcast(0.0F));
    largest = V::max(largest, V::bit_and(V::as_i32(value), V::broadcast(0x7fffffff)));
    V::store_words(reinterpret_cast<std::byte*>(y + d), V::as_i32(value), count);
  }
  return V::reduce_max(largest) < 0x7f800000;
}

}  // namespace
}  // namespace gqmm::cpu
