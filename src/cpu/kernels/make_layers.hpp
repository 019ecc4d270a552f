// Fills a LayerKernels with the kernels of one vocabulary.
#pragma once

#include "cpu/kernels/attention.hpp"
#include "cpu/kernels/convolution.hpp"
#include "cpu/kernels/gated_delta.hpp"
#include "cpu/kernels/int_list.hpp"
#include "cpu/kernels/quantized_rows.hpp"
#include "cpu/kernels/rows.hpp"
#include "cpu/kernels/ssm.hpp"
#include "formats/registry.hpp"

#include <algorithm>

namespace gqmm::cpu {
namespace {

/// Fills in the kernels for the codes of each affine format.
template <class V, class... F>
consteval void add_quantized_rows(AttentionKernels& kernels, TypeList<F...>) {
  const auto add = [&]<class Format>() {
    if constexpr (Format::mode == Mode::affine) {
      static_assert(Format::bits <= most_code_bits && Format::group_sizes[0] % codes_of_bundle == 0);
      kernels.pack_quantized_keys[Format::bits - 1] = pack_quantized_keys<V, Format::bits>;
      kernels.pack_quantized_values[Format::bits - 1] = pack_quantized_values<V, Format::bits>;
    }
  };
  (add.template operator()<F>(), ...);
}

template <class V>
consteval AttentionKernels make_attention() {
  static_assert(V::float_tile.mr <= max_tile_rows && V::float_tile.nv <= max_tile_strips);
  AttentionKernels kernels = {};
  kernels.tile = V::float_tile;
  // The scores in place hold a transposed piece of 16 keys beside their sums, so they take half the rows of a float GEMV.
  constexpr int in_place_rows = std::max(1, V::float_gemv_rows / 2);
  static_assert(in_place_rows <= max_tile_rows);
  kernels.in_place_rows = in_place_rows;
  for_each(IntList<0, 1, 2>{}, [&]<int i>() {
    constexpr auto kind = static_cast<FloatKind>(i);
    for_each(IntList<0, 1, 2, 3>{}, [&]<int size>() {
      if constexpr (1 << size <= in_place_rows) {
        kernels.scores_in_place[i][size] = scores_in_place<V, kind, 1 << size>;
        kernels.values_in_place[i][size] = values_in_place<V, kind, 1 << size>;
      }
    });
    kernels.pack_keys[i] = pack_keys<V, kind>;
    kernels.pack_values[i] = pack_values<V, kind>;
  });
  add_quantized_rows<V>(kernels, AllFormats{});
  for_each(typename UpTo<V::float_tile.mr>::type{}, [&]<int mr>() {
    for_each(typename UpTo<V::float_tile.nv>::type{}, [&]<int nv>() {
      kernels.score_tile[mr - 1][nv - 1] = score_tile<V, mr, nv>;
      kernels.value_tile[mr - 1][nv - 1] = value_tile<V, mr, nv>;
    });
  });
  kernels.softmax = softmax<V>;
  kernels.merge = merge<V>;
  kernels.finish = finish<V>;
  return kernels;
}

/// Makes the kernels. The compiler evaluates it, as it does make_table.
template <class V>
consteval LayerKernels make_layers() {
  return {.attention = make_attention<V>(),
          .rms_norm = rms_norm<V>,
          .layer_norm = layer_norm<V>,
          .softmax_of_row = softmax_of_row<V>,
          .rotate = rotate<V>,
          .delta_rule = delta_rule<V>,
          .ssm_step = ssm_step<V>,
          .time_steps = time_steps<V>,
          .depthwise_conv = depthwise_conv<V>};
}

}  // namespace
}  // namespace gqmm::cpu
