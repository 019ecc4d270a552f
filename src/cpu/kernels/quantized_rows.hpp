// Packs rows of affine codes into panels of float32 for attention:
//
//     ŵ = scale · code + bias                 the product and the sum are rounded, as dequantize rounds them in float32
//
//     keys     16 rows → [element][16 rows]             lane n is row n, so scales of 16 rows are one vector
//     values   rows    → [strip of 16 elements][row][16]
//
// Keys are transposed as words, before their codes are unpacked, so 4 to 32 codes of a row move together. 32 codes are `bits`
// words; a code may lie in two of them.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/attention_table.hpp"
#include "cpu/kernels/row_prefetcher.hpp"
#include "cpu/kernels/unrolled.hpp"

namespace gqmm::cpu {
namespace {

template <class V>
[[gnu::always_inline]] inline typename V::f32 dequantized(typename V::i32 code, typename V::f32 scale, typename V::f32 bias) {
  return V::add(V::mul(V::to_f32(code), scale), bias);
}

/// Code number `index` of 32 in each lane. Word w of the 32 codes is words[w / 4][w % 4].
template <class V, int bits, int index, int loads>
[[gnu::always_inline]] inline typename V::i32 code_of_words(const typename V::i32 (&words)[loads][4]) {
  constexpr int word = index * bits / 32;
  constexpr int shift = index * bits % 32;
  const auto mask = V::broadcast((1 << bits) - 1);
  if constexpr (shift + bits > 32) {
    const auto joined = V::template funnel_right<shift>(words[word / 4][word % 4], words[(word + 1) / 4][(word + 1) % 4]);
    return V::bit_and(joined, mask);
  } else if constexpr (shift == 0) {
    return V::bit_and(words[word / 4][word % 4], mask);
  } else if constexpr (shift + bits == 32) {
    return V::template shift_right<shift>(words[word / 4][word % 4]);
  } else {
    return V::bit_and(V::template shift_right<shift>(words[word / 4][word % 4]), mask);
  }
}

template <class V, int bits>
void pack_quantized_keys(const PackQuantizedRowsArguments& a) {
  constexpr int codes = codes_of_bundle;
  constexpr int loads = (bits + 3) / 4;
  GQMM_ASSERT(a.count == lanes && a.group_size % codes == 0 && a.width % a.group_size == 0);
  RowPrefetcher<V> prefetcher(a.prefetch);
  const std::byte* rows = a.rows;
  float* panel = a.panel;
  for (std::int64_t group = 0; group < a.width / a.group_size; ++group) {
    const auto scale = V::load(a.scales + group * lanes);
    const auto bias = V::load(a.biases + group * lanes);
    for (int k = 0; k < a.group_size; k += codes) {
      typename V::i32 words[loads][4];
      unrolled<loads>([&]<int i>() __attribute__((always_inline)) { V::load_transposed(rows + 16 * i, a.stride, words[i]); });
      // 16 rows of `bits` words are `bits` lines.
      unrolled<bits>([&]<int>() __attribute__((always_inline)) { prefetcher.next(); });
      unrolled<codes>([&]<int i>() __attribute__((always_inline)) {
        V::store(panel + i * lanes, dequantized<V>(code_of_words<V, bits, i, loads>(words), scale, bias));
      });
      rows += 4 * bits;
      panel += codes * lanes;
    }
  }
}

template <class V, int bits>
void pack_quantized_values(const PackQuantizedRowsArguments& a) {
  GQMM_ASSERT(a.count >= 0 && a.count <= key_block && a.group_size % lanes == 0 && a.width % a.group_size == 0);
  const std::int64_t groups = a.width / a.group_size;
  for (int j = 0; j < a.count; ++j) {
    const std::byte* codes = a.rows + j * a.stride;
    float* to = a.panel + j * lanes;
    for (std::int64_t group = 0; group < groups; ++group) {
      const auto scale = V::broadcast(a.scales[j * groups + group]);
      const auto bias = V::broadcast(a.biases[j * groups + group]);
      for (int k = 0; k < a.group_size; k += lanes) {
        V::store(to, dequantized<V>(V::template unpack_codes<bits>(codes), scale, bias));
        codes += 2 * bits;
        to += a.strip_stride;
      }
    }
  }
}

}  // namespace
}  // namespace gqmm::cpu
