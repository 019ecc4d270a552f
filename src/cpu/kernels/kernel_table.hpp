// The kernels of one instruction set behind plain function pointers: all that the rest of the library sees of them.
#pragma once

#include "cpu/simd/vocabulary.hpp"

#include <gqmm/array.hpp>

#include <cstddef>
#include <cstdint>

namespace gqmm::cpu {

/// How a panel holds codes: two to a byte, one to a byte below 128, one to a byte; signed ones are bytes below 128 of a format
/// without biases, whose offset is folded into the scales of x.
enum class PanelKind : std::uint8_t { nibbles, bytes, wide_bytes, signed_bytes };
inline constexpr int panel_kinds = 4;

inline constexpr std::int64_t line_bytes = 64;  // of a cache

inline constexpr int max_slices = 3;
inline constexpr int max_tile_rows = 8;  // of any instruction set's GEMM tile
inline constexpr int max_tile_strips = 3;
/// 1, 2 and 4; three rows run as four. AVX-512's 32 registers hold, in place, 4-bit codes: rows · slices integer sums + rows
/// float sums + 4 transposed words + 4 that are being transposed and as many on the way + weights and mask. Four rows: 22, 26, 30
/// with 1, 2, 3 slices. Eight would be 30, 38, 46; they take two passes over a strip that is in cache by then.
inline constexpr int max_gemv_rows = 4;

/// How scales and biases are stored.
enum class ScaleType : std::uint8_t { float32, float16, bfloat16, e8m0, e4m3 };

constexpr ScaleType scale_type_of(Dtype dtype) {
  return dtype == Dtype::float16 ? ScaleType::float16 : dtype == Dtype::bfloat16 ? ScaleType::bfloat16 : ScaleType::float32;
}

/// A strip of quantized weights: 16 outputs (rows of w) and all of K, in place or packed (plan/packed.hpp).
struct WeightStrip {
  const std::byte* codes = nullptr;  // in place: the first row; packed: the first line of 16 words
  std::int64_t row_stride = 0;       // in place: bytes between rows
  const std::byte* scales = nullptr;
  std::int64_t scale_stride = 0;
  const std::byte* biases = nullptr;  // nullptr: none
  std::int64_t bias_stride = 0;
  int rows = lanes;         // in place: rows that exist, 1 … 16
  std::int64_t words = 0;   // of a row
  std::int64_t groups = 0;  // of a row
  bool packed = false;
  ScaleType scale_type = ScaleType::float32;
  ScaleType bias_type = ScaleType::float32;
  float scale_factor = 1.0F;  // a global scale; with the format's unit, scales' only factor
};

/// Memory without gaps. Of no bytes: nothing, or nothing known.
struct Run {
  const std::byte* begin = nullptr;
  std::int64_t bytes = 0;
};
/// Weights that will be wanted soon, to be prefetched.
struct Ahead {
  Run codes;
  Run scales;
  Run biases;
};

/// A strip, and what to ask for while it is read.
struct StripStream {
  WeightStrip strip;
  Ahead next;                   // what will be read soon
  Ahead after_next;             // what will be read after it
  bool prefetch_to_l2 = false;  // no further than L2, and both
};

/// One strip times few rows.
struct GemvArguments {
  StripStream stream;
  int group_size = 0;
  std::int64_t K = 0;
  const std::int32_t* const* x = nullptr;  // per row, [group][step][slice] words of 4 bytes
  const float* const* x_scales = nullptr;  // per row, as SliceArguments::scales
  float* c = nullptr;                      // [row][c_stride]
  std::int64_t c_stride = 0;
};

/// A register tile of the GEMM over a range of groups: mr rows × nv strips.
struct GemmArguments {
  const std::byte* codes = nullptr;  // panel of the first strip at the first group
  std::int64_t strip_codes = 0;      // bytes between strips
  const float* scales = nullptr;     // [group][scale, bias][16 lanes]
  std::int64_t strip_scales = 0;     // floats between strips
  const std::int32_t* const* x = nullptr;
  const float* const* x_scales = nullptr;
  float* c = nullptr;
  std::int64_t c_stride = 0;
  int groups = 0;
  int group_size = 0;
  bool first = false;                   // c starts at zero, else at its content
  const std::byte* prefetch = nullptr;  // memory wanted soon; anything mapped when prefetch_lines is 0
  int prefetch_lines = 0;               // 0, 1 or 2 per unit of 32 (16) k
};

/// A register tile of the float GEMM over a block of k: c += x · w, the block summed apart.
struct FloatGemmArguments {
  const float* w = nullptr;         // [k][16 lanes] of the first strip
  std::int64_t strip_stride = 0;    // floats between strips
  const float* const* x = nullptr;  // per row, at the block's first k
  float* const* c = nullptr;        // per row
  int k = 0;
  const std::byte* prefetch = nullptr;  // memory wanted soon; anything mapped when prefetch_lines is 0
  int prefetch_lines = 0;               // 0, 1 or 2 per prefetch_k
};
inline constexpr int prefetch_k = 4;  // k between prefetches in a tile of the float GEMM

/// k in a block of the float path: sums run over 128 products, then join y. The largest group is 128, and the panel of a strip is
/// 8 KiB: three strips and 8 rows of x are 28 KiB, which stay in L1. Results depend on it (docs/numerics.md).
inline constexpr std::int64_t float_block = 128;

/// 16 outputs of consecutive k of weights packed along N: row k holds the codes of all outputs, which share a scale and a bias.
struct CodeRows {
  const std::byte* codes = nullptr;
  std::int64_t row_stride = 0;    // bytes
  const float* scales = nullptr;  // with their factors
  std::int64_t to_bias = 0;       // floats from a scale to its bias, if the format has biases
  std::int64_t scale_stride = 0;  // floats from k to k + 1

  void next() {
    codes += row_stride;
    scales += scale_stride;
  }
};

/// Few rows of x, for the float path.
struct FloatRows {
  const float* x = nullptr;  // [k][rows]
  std::int64_t k = 0;
  float* c = nullptr;  // [row][c_stride]
  std::int64_t c_stride = 0;
};
/// Kernels for 1, 2, 4, 8, 16 rows, as far as registers go or, of weights along N, as they are faster than tiles.
inline constexpr int float_gemv_sizes = 5;

/// Floats that slicing leaves for each group of a row: the slices' magics, then Σx; for formats without biases the slices' zeros
/// instead of Σx: what an accumulator holds, as a float, when Σ (u − offset)·a is zero.
constexpr int x_scales_of_group(int slices, bool biased) { return biased ? slices + 1 : 2 * slices; }

struct SliceArguments {
  const std::byte* x = nullptr;  // K consecutive elements
  Dtype dtype = Dtype::float32;
  std::int64_t K = 0;
  int group_size = 0;
  bool biased = true;                   // the format has biases
  int offset = 0;                       // of its codes, where it has none
  std::int32_t* words = nullptr;        // [group][step][slice]
  float* scales = nullptr;              // [group][x_scales_of_group]
  std::uint8_t* exceptional = nullptr;  // [group]: 1 for groups that need the float path; their slices are zero
};

/// The per-format kernels. docs/adding.md says what a new format needs.
struct FormatKernels {
  PanelKind panel = PanelKind::bytes;
  bool even_odd = false;      // order of k within 8: slices must match
  bool panel_is_raw = false;  // a packed strip is its own panel
  /// Codes of k in [k0, k0 + count) of a strip → panel, [k/8 or k/4] lines of 16 words. count: a multiple of the group.
  void (*pack)(const WeightStrip&, std::int64_t k0, std::int64_t count, std::byte* panel) = nullptr;
  /// Scales and biases of groups [g0, g0 + count) in integer form → [group][scale, bias][16]; without biases, nothing is written
  /// in their place. Returns the lanes whose scale or bias is not finite or so large that sums could overflow: outputs that need
  /// the float path.
  std::uint32_t (*pack_scales)(const WeightStrip&, std::int64_t g0, std::int64_t count, float* out) = nullptr;
  /// ŵ of k in [k0, k0 + count) of a strip → [k][16] floats. count: a multiple of the group, at most 128.
  void (*dequantize)(const WeightStrip&, int group_size, std::int64_t k0, std::int64_t count, float* out) = nullptr;
  /// Without transpose: `count` rows → [k][16] floats.
  void (*dequantize_rows)(CodeRows, std::int64_t count, float* out) = nullptr;
  /// The float path for 2^i rows: c = x · ŵ for formats without an integer form, c += x · ŵ for weights packed along N.
  void (*float_gemv[float_gemv_sizes])(const StripStream&, const FloatRows&) = {};
  void (*float_gemv_along_n[float_gemv_sizes])(const CodeRows&, const FloatRows&) = {};
  /// [slices − 1][rows − 1] for 1, 2 and 4 rows. Returns lanes as pack_scales does.
  std::uint32_t (*gemv[max_slices][max_gemv_rows])(const GemvArguments&) = {};
};

struct KernelTable {
  TileSize gemm_tile[max_slices];
  TileSize float_tile;
  int float_gemv_rows;  // of the largest of FormatKernels::float_gemv
  FewRows few_float_rows;
  const FormatKernels* formats;  // [index_of(format)]
  /// [panel kind][slices − 1][mr − 1][nv − 1], and for groups of 16 (unit 16) in the second table.
  void (*gemm[panel_kinds][max_slices][max_tile_rows][max_tile_strips])(const GemmArguments&);
  void (*gemm16[max_slices][max_tile_rows][max_tile_strips])(const GemmArguments&);
  void (*float_gemm[max_tile_rows][max_tile_strips])(const FloatGemmArguments&);
  /// [slices − 1][even_odd]. Returns whether any group is exceptional.
  bool (*slice[max_slices][2])(const SliceArguments&);
  /// n elements of x, or n scales, → float32.
  void (*widen)(const std::byte* x, ScaleType type, std::int64_t n, float* out);
  /// n floats → y, rounded, NaN made canonical.
  void (*round)(const float* c, std::int64_t n, Dtype dtype, std::byte* y);
};

}  // namespace gqmm::cpu
