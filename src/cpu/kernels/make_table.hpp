// Fills a KernelTable with the kernels of one vocabulary, for every format of the registry.
#pragma once

#include "cpu/kernels/activation.hpp"
#include "cpu/kernels/combine.hpp"
#include "cpu/kernels/float_gemv.hpp"
#include "cpu/kernels/gemm.hpp"
#include "cpu/kernels/gemv.hpp"
#include "cpu/kernels/int_list.hpp"
#include "formats/registry.hpp"

#include <bit>

namespace gqmm::cpu {
namespace {

template <class V, class F>
constexpr FormatKernels make_format_kernels() {
  using Bundle = CodeBundle<V, F>;
  FormatKernels kernels;
  if constexpr (F::integer.exists) {
    kernels.dequantize = dequantize_integers<V, F>;
  } else {
    kernels.dequantize = dequantize_floats<V, F>;
  }
  kernels.dequantize_along_n = dequantize_along_n<V, F>;
  for_each(IntList<0, 1, 2, 3, 4>{}, [&]<int size>() {
    constexpr int rows = 1 << size;
    if constexpr (rows <= V::float_gemv_crossover.along_n) {
      kernels.float_gemv_along_n[size] = float_gemv_along_n<V, F, rows>;
    }
    if constexpr (rows <= V::float_gemv_rows && !F::integer.exists) {
      kernels.float_gemv[size] = float_gemv<V, F, rows>;
    }
  });
  if constexpr (F::integer.exists) {
    kernels.panel = Bundle::panel;
    kernels.even_odd = Bundle::even_odd;
    kernels.panel_is_raw = Bundle::panel_is_raw;
    kernels.pack = pack_strip<V, F>;
    kernels.pack_scales = [](const WeightStrip& strip, std::int64_t g0, std::int64_t count, float* out) {
      return pack_scales<V, F::scale_encoding>(strip, g0, count, F::integer.unit, out);
    };
    for_each(IntList<1, 2, 3>{}, [&]<int slices>() {
      for_each(IntList<1, 2, 4>{}, [&]<int rows>() {
        if constexpr (rows <= V::gemv_rows) {
          kernels.gemv[slices - 1][rows - 1] = gemv<V, F, slices, rows>;
        }
      });
    });
  }
  return kernels;
}

template <class V, class Formats>
struct FormatTable;
template <class V, class... F>
struct FormatTable<V, TypeList<F...>> {
  static constexpr FormatKernels kernels[] = {make_format_kernels<V, F>()...};
};

/// Panel kinds whose code is the same share one kernel: this is the kind that it is compiled for.
template <class V>
constexpr PanelKind kernel_kind(PanelKind kind) {
  return kind == PanelKind::bytes && !V::wide_dot_differs ? PanelKind::wide_bytes : kind;
}

/// Makes the kernel table. The compiler evaluates it, so no first call has to make the table. A process may fork during a first
/// call.
template <class V>
consteval KernelTable make_table() {
  static_assert(std::has_single_bit(static_cast<unsigned>(V::float_gemv_crossover.along_n)) &&
                    V::float_gemv_crossover.along_n <= V::float_gemv_rows,
                "rows are rounded up to a power of two, and a larger one has no kernel along N");
  static_assert(std::has_single_bit(static_cast<unsigned>(V::gemv_rows)) && V::gemv_rows <= max_gemv_rows);
  KernelTable table = {};
  for (int p = 0; p < max_slices; ++p) {
    table.gemm_tile[p] = V::gemm_tile[p];
  }
  table.float_tile = V::float_tile;
  table.gemv_rows = V::gemv_rows;
  table.float_gemv_rows = V::float_gemv_rows;
  table.float_gemv_crossover = V::float_gemv_crossover;
  table.formats = FormatTable<V, AllFormats>::kernels;
  for_each(IntList<1, 2, 3>{}, [&]<int slices>() {
    constexpr TileSize tile = V::gemm_tile[slices - 1];
    static_assert(tile.mr <= max_tile_rows && tile.nv <= max_tile_strips);
    for_each(typename UpTo<tile.mr>::type{}, [&]<int mr>() {
      for_each(typename UpTo<tile.nv>::type{}, [&]<int nv>() {
        table.gemm16[slices - 1][mr - 1][nv - 1] = gemm_tile<V, PanelKind::signed_bytes, slices, mr, nv, 16>;
        for_each(IntList<0, 1, 2, 3>{}, [&]<int kind>() {
          table.gemm[kind][slices - 1][mr - 1][nv - 1] =
              gemm_tile<V, kernel_kind<V>(static_cast<PanelKind>(kind)), slices, mr, nv, 32>;
        });
      });
    });
    table.slice[slices - 1][0] = slice<V, slices, false>;
    table.slice[slices - 1][1] = slice<V, slices, true>;
  });
  for_each(typename UpTo<V::float_tile.mr>::type{}, [&]<int mr>() {
    for_each(typename UpTo<V::float_tile.nv>::type{},
             [&]<int nv>() { table.float_gemm[mr - 1][nv - 1] = float_gemm_tile<V, mr, nv>; });
  });
  table.widen = widen<V>;
  table.round = round<V>;
  for_each(typename UpTo<activation_kinds>::type{},
           [&]<int kind>() { table.activate[kind - 1] = activate<V, static_cast<ActivationKind>(kind - 1)>; });
  table.combine = combine<V>;
  return table;
}

template <class V, class F>
constexpr FormatKernels picked_or(const FormatKernels& other) {
  if constexpr (CodeBundle<V, F>::picks_bits) {
    return make_format_kernels<V, F>();
  } else {
    return other;
  }
}

/// The kernel table of another vocabulary, with V's kernels for the formats whose codes V picks from words
/// (CodeBundle::picks_bits).
template <class V, class Formats>
struct PickedTable;
template <class V, class... F>
struct PickedTable<V, TypeList<F...>> {
  explicit PickedTable(const KernelTable& other) : PickedTable(other, other.formats) {}
  PickedTable(const PickedTable&) = delete;  // because `table` points to `formats`
  PickedTable& operator=(const PickedTable&) = delete;

  FormatKernels formats[sizeof...(F)];
  KernelTable table;

 private:
  PickedTable(const KernelTable& other, const FormatKernels* format) : formats{picked_or<V, F>(*format++)...}, table(other) {
    table.formats = formats;
  }
};

}  // namespace
}  // namespace gqmm::cpu
