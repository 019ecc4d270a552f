// The kernels of one instruction set as plain function pointers. The rest of the library sees nothing else of them.
#pragma once

#include "cpu/simd/vocabulary.hpp"

#include <gqmm/array.hpp>

#include <cstddef>
#include <cstdint>

namespace gqmm::cpu {

/// How a panel holds codes:
/// - nibbles: two codes in a byte,
/// - bytes: one code in a byte, below 128,
/// - wide_bytes: one code in a byte, up to 255,
/// - signed_bytes: one code in a byte, below 128, of a format without biases; its offset is folded into the scales of x.
enum class PanelKind : std::uint8_t { nibbles, bytes, wide_bytes, signed_bytes };
inline constexpr int panel_kinds = 4;

inline constexpr std::int64_t line_bytes = 64;  // bytes of a cache line

inline constexpr int max_slices = 3;
inline constexpr int largest_group = 128;  // the largest group size of any format
inline constexpr int max_tile_rows = 8;    // the largest mr of any instruction set's GEMM tile
inline constexpr int max_tile_strips = 3;
/// The GEMV has kernels for 1, 2 and 4 rows; three rows run as four. The limit comes from AVX-512's 32 registers, for 4-bit codes
/// in place. They hold rows · slices integer sums, rows float sums, 4 transposed words, 4 words in transposition, as many words
/// being loaded, and weights and mask. Four rows need 22, 26, 30 registers with 1, 2, 3 slices. Eight rows would need 30, 38, 46.
/// So eight rows take two passes over a strip, which is in cache in the second pass. Plain C++ has a kernel for one row.
inline constexpr int max_gemv_rows = 4;

/// How scales and biases are stored.
enum class ScaleType : std::uint8_t { float32, float16, bfloat16, e8m0, e4m3 };

constexpr ScaleType scale_type_of(Dtype dtype) {
  return dtype == Dtype::float16 ? ScaleType::float16 : dtype == Dtype::bfloat16 ? ScaleType::bfloat16 : ScaleType::float32;
}

/// A strip of quantized weights: 16 outputs (rows of w) and all of K. It lies in place or packed (plan/packed.hpp).
struct WeightStrip {
  const std::byte* codes = nullptr;  // in place: the first row. Packed: the first line of 16 words
  std::int64_t row_stride = 0;       // in place: bytes between rows of w
  const std::byte* scales = nullptr;
  std::int64_t scale_stride = 0;
  const std::byte* biases = nullptr;  // nullptr if the format has none
  std::int64_t bias_stride = 0;
  int rows = lanes;         // in place: rows of w that exist, 1 … 16
  std::int64_t words = 0;   // words of a row of w
  std::int64_t groups = 0;  // groups of a row of w
  bool packed = false;
  ScaleType scale_type = ScaleType::float32;
  ScaleType bias_type = ScaleType::float32;
  float scale_factor = 1.0F;  // factor of the scales from a global scale; the format's unit is their only other factor
};

/// A range of memory without gaps. If it has no bytes, there is nothing to read, or the place is not known.
struct MemoryRange {
  const std::byte* begin = nullptr;
  std::int64_t bytes = 0;
};
/// The memory of weights that will be read soon and should be prefetched.
struct PrefetchRanges {
  MemoryRange codes;
  MemoryRange scales;
  MemoryRange biases;
};

/// A strip, and the memory to prefetch while the kernel reads it.
struct StripStream {
  WeightStrip strip;
  PrefetchRanges near;          // what will be read next
  PrefetchRanges far;           // what will be read after `near`
  bool prefetch_to_l2 = false;  // true: prefetch into L2 only, and both ranges. false: prefetch `near` into L1
};

/// Arguments of the GEMV: one strip times up to max_gemv_rows rows.
struct GemvArguments {
  StripStream stream;
  int group_size = 0;
  std::int64_t K = 0;
  const std::int32_t* const* x = nullptr;  // per row, [group][step][slice] words of 4 bytes
  const float* const* x_scales = nullptr;  // per row, as SliceArguments::scales
  float* c = nullptr;                      // [row][c_stride]
  std::int64_t c_stride = 0;
};

/// Arguments of a register tile of the GEMM: mr rows × nv strips over a range of groups.
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
  bool first = false;                   // true: c starts at zero. false: the tile adds to c
  const std::byte* prefetch = nullptr;  // memory to prefetch; any mapped address if prefetch_lines is 0
  int prefetch_lines = 0;               // 0, 1 or 2 lines for each bundle of 32 (16) k
};

/// Operands of a register tile of float32 products: mr rows × nv strips over k.
struct FloatTileOperands {
  const float* w = nullptr;         // [k][16 lanes] of the first strip
  std::int64_t strip_stride = 0;    // floats between strips
  const float* const* x = nullptr;  // per row, at the first k
  int k = 0;
  const std::byte* prefetch = nullptr;  // memory to prefetch; any mapped address if prefetch_lines is 0
  int prefetch_lines = 0;               // 0, 1 or 2 lines for each prefetch_k
};
/// Arguments of a register tile of the float GEMM over a block of k: c += x · w. The block is summed on its own first.
struct FloatGemmArguments {
  FloatTileOperands tile;
  float* const* c = nullptr;  // per row
};
inline constexpr int prefetch_k = 4;  // number of k between prefetches in a tile of the float GEMM

/// The number of k in a block of the float path. A sum runs over 128 products and is then added to y. Results depend on this
/// number (docs/reference/numerics.md). The largest group is 128 as well. The panel of a strip is then 8 KiB, and three strips
/// with 8 rows of x are 28 KiB, which stay in L1.
inline constexpr std::int64_t float_block = 128;

/// The codes of 16 outputs, for consecutive k of weights with rows along n. Row k of w holds the codes of all outputs. The 16
/// outputs share a scale and a bias.
struct CodesAlongN {
  const std::byte* codes = nullptr;
  std::int64_t row_stride = 0;    // bytes from k to k + 1
  const float* scales = nullptr;  // scales, with their factors multiplied in
  std::int64_t to_bias = 0;       // floats from a scale to its bias, if the format has biases
  std::int64_t scale_stride = 0;  // floats from k to k + 1

  void next() {
    codes += row_stride;
    scales += scale_stride;
  }
};

/// Arguments of the float GEMV: up to 16 rows of x, interleaved.
struct FloatGemvArguments {
  const float* x = nullptr;  // [k][rows]
  std::int64_t k = 0;
  float* c = nullptr;  // [row][c_stride]
  std::int64_t c_stride = 0;
};
/// The float GEMV has kernels for 1, 2, 4, 8, 16 rows. Registers limit the number of rows. For weights with rows along n, the
/// limit is where tiles become faster.
inline constexpr int float_gemv_sizes = 5;

/// The number of floats that slicing writes for each group of a row. These are the magic numbers of the slices, then Σx. For
/// formats without biases, the zeros of the slices take the place of Σx. A zero is the value of the accumulator, as a float, when
/// Σ (u − offset)·a is zero.
constexpr int x_scales_of_group(int slices, bool biased) { return biased ? slices + 1 : 2 * slices; }

struct SliceArguments {
  const std::byte* x = nullptr;  // K consecutive elements
  Dtype dtype = Dtype::float32;
  std::int64_t K = 0;
  int group_size = 0;
  bool biased = true;                   // the format has biases
  int offset = 0;                       // the offset of the format's codes, if it has no biases
  std::int32_t* words = nullptr;        // [group][step][slice]
  float* scales = nullptr;              // [group][x_scales_of_group]
  std::uint8_t* exceptional = nullptr;  // [group]: 1 for groups that need the float path; their slices are zero
};

/// The forms of activations (gqmm/activation.hpp) that have code of their own.
enum class ActivationKind : std::uint8_t {
  swiglu,
  geglu,
  geglu_tanh,
  situ,
  situ_linear,  // with a linear_beta
  swiglu_step,
  silu,  // from here on without up
  gelu,
  gelu_tanh,
  relu2,
};
inline constexpr int activation_kinds = 10;
constexpr bool is_gated(ActivationKind kind) { return kind < ActivationKind::silu; }

/// Every kind reads some of them. A limit of infinity clips nothing.
struct ActivationConstants {
  float alpha = 1;
  float limit = 0;
  float bias = 0;
  float beta = 0;
  float linear_beta = 0;
};

struct ActivationArguments {
  const float* gate = nullptr;
  const float* up = nullptr;  // nullptr if the kind is not gated
  float* h = nullptr;         // may be `gate` or `up`
  std::int64_t n = 0;
  ActivationConstants constants;
};

/// Arguments of the weighted sum of one token's slots.
struct CombineArguments {
  const std::byte* slots = nullptr;  // [k][n], of a compute float
  std::int64_t slot_stride = 0;      // bytes
  Dtype dtype = Dtype::float32;
  const float* weights = nullptr;  // [k]
  std::int64_t k = 0;
  std::int64_t n = 0;
  float* out = nullptr;  // [n]
};

/// The kernels of one format. docs/dev/adding.md says what a new format needs.
struct FormatKernels {
  PanelKind panel = PanelKind::bytes;
  bool even_odd = false;      // the kernels take even k before odd k, within each 8; slices must have the same order
  bool panel_is_raw = false;  // a packed strip has the order of the panel already
  /// Writes the codes of k in [k0, k0 + count) of a strip to the panel: [k/8 or k/4] lines of 16 words. `count` is a multiple of
  /// the group size.
  void (*pack)(const WeightStrip&, std::int64_t k0, std::int64_t count, std::byte* panel) = nullptr;
  /// Writes scales and biases of the groups [g0, g0 + count), in the integer form, to [group][scale, bias][16]. Without biases,
  /// nothing is written in their place. Returns a mask of the exceptional lanes: outputs whose scale or bias is not finite, or so
  /// large that sums could overflow. These outputs need the float path.
  std::uint32_t (*pack_scales)(const WeightStrip&, std::int64_t g0, std::int64_t count, float* out) = nullptr;
  /// Dequantizes k in [k0, k0 + count) of a strip to [k][16] floats. `count` is a multiple of the group size and at most 128.
  void (*dequantize)(const WeightStrip&, int group_size, std::int64_t k0, std::int64_t count, float* out) = nullptr;
  /// The same for weights with rows along n: `count` rows of w to [k][16] floats.
  void (*dequantize_along_n)(CodesAlongN, std::int64_t count, float* out) = nullptr;
  /// The float GEMV for 2^i rows: c = x · ŵ for formats without an integer form, and c += x · ŵ for weights with rows along n.
  void (*float_gemv[float_gemv_sizes])(const StripStream&, const FloatGemvArguments&) = {};
  void (*float_gemv_along_n[float_gemv_sizes])(const CodesAlongN&, const FloatGemvArguments&) = {};
  /// The integer GEMV: [slices − 1][rows − 1] for the powers of two up to gemv_rows. Returns a mask of lanes as pack_scales does.
  std::uint32_t (*gemv[max_slices][max_gemv_rows])(const GemvArguments&) = {};
};

struct KernelTable {
  TileSize gemm_tile[max_slices];
  TileSize float_tile;
  int gemv_rows;        // rows of the largest kernel in FormatKernels::gemv
  int float_gemv_rows;  // rows of the largest kernel in FormatKernels::float_gemv
  GemvCrossover float_gemv_crossover;
  const FormatKernels* formats;  // [index_of(format)]
  /// The tiles [panel kind][slices − 1][mr − 1][nv − 1]. The second table is for groups of 16, whose bundles have 16 k.
  void (*gemm[panel_kinds][max_slices][max_tile_rows][max_tile_strips])(const GemmArguments&);
  void (*gemm16[max_slices][max_tile_rows][max_tile_strips])(const GemmArguments&);
  void (*float_gemm[max_tile_rows][max_tile_strips])(const FloatGemmArguments&);
  /// Slices a row: [slices − 1][even_odd]. Returns whether any group is exceptional.
  bool (*slice[max_slices][2])(const SliceArguments&);
  /// Converts n elements of x, or n scales, to float32.
  void (*widen)(const std::byte* x, ScaleType type, std::int64_t n, float* out);
  /// Rounds n floats and writes them to y. Every NaN becomes canonical.
  void (*round)(const float* c, std::int64_t n, Dtype dtype, std::byte* y);
  void (*activate[activation_kinds])(const ActivationArguments&);
  void (*combine)(const CombineArguments&);
};

}  // namespace gqmm::cpu
