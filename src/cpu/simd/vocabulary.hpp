// What a kernel may ask of an instruction set. Each file beside this one is a struct of static functions over two types of 16
// lanes, whatever the registers' width: one lane per output of a strip (plan/packed.hpp). So packed weights and results do not
// depend on the instruction set, and kernels are written once.
//
//     f32   16 float32           i32   16 × 32 bits: int32, or 4 bytes each (w_u8, x_s8)
//
// All of it is exact or correctly rounded, so that every instruction set gives the same bits (docs/numerics.md).
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace gqmm::cpu {

inline constexpr int lanes = 16;

/// Up to how many rows the float GEMV is faster than the float GEMM.
struct FewRows {
  int along_k;  // strips of mxfp8
  int along_n;  // any weights with transpose=False, whose 16 outputs of one k take more instructions to unpack

  [[nodiscard]] constexpr int of(bool transpose) const { return transpose ? along_k : along_n; }
};

/// Rows and strips of a register tile.
struct TileSize {
  int mr;  // rows of x
  int nv;  // strips of 16 outputs
};

template <class V>
concept Vocabulary = requires(typename V::f32 f, typename V::i32 i, typename V::i32 (&words)[4], float* floats, float scalar,
                              const std::byte* bytes, std::byte* out, int n, std::int32_t word, const std::uint8_t (&table)[16],
                              std::int64_t stride) {
  // Tiles of the GEMM for 1, 2, 3 slices, and of the float GEMM.
  { V::gemm_tile[0] } -> std::convertible_to<TileSize>;
  { V::float_tile } -> std::convertible_to<TileSize>;
  /// Rows, a power of two, that the float GEMV takes at a time.
  { V::float_gemv_rows } -> std::convertible_to<int>;
  { V::few_float_rows } -> std::convertible_to<FewRows>;
  /// Whether dot<255> is other code than dot<127>.
  { V::wide_dot_differs } -> std::convertible_to<bool>;
  /// Words of 16 rows that registers hold beside the sums and words of a decode kernel: loaded ahead of their use.
  { V::words_ahead } -> std::convertible_to<int>;
  /// Whether there is pick_bits<first, pitch>(i): byte j of a lane becomes the lane's 8 bits from first + j · pitch on, of which
  /// those beyond its ends may be anything.
  { V::picks_bits } -> std::convertible_to<bool>;

  // Memory. load and store take any address; n counts elements, the lanes past n are zero on load and untouched on store.
  { V::load(floats) } -> std::same_as<typename V::f32>;
  { V::store(floats, f) };
  { V::load_words(bytes, n) } -> std::same_as<typename V::i32>;
  { V::load_u16(bytes, n) } -> std::same_as<typename V::i32>;
  { V::load_u8(bytes, n) } -> std::same_as<typename V::i32>;
  /// Four words of each of 16 rows, `stride` bytes apart: words[j] lane n is word j of row n.
  { V::load_transposed(bytes, stride, words) };
  { V::store_words(out, i, n) };
  { V::store_u16(out, i, n) };  // the low halves of the lanes
  { V::broadcast(scalar) } -> std::same_as<typename V::f32>;
  { V::broadcast(word) } -> std::same_as<typename V::i32>;
  { V::prefetch(bytes) };
  { V::prefetch_l2(bytes) };  // into L2 only

  // Float arithmetic, each operation rounded once.
  { V::add(f, f) } -> std::same_as<typename V::f32>;
  { V::sub(f, f) } -> std::same_as<typename V::f32>;
  { V::mul(f, f) } -> std::same_as<typename V::f32>;
  { V::fma(f, f, f) } -> std::same_as<typename V::f32>;  // a · b + c
  { V::canonical(f) } -> std::same_as<typename V::f32>;  // NaN becomes the positive quiet NaN

  // Conversions.
  { V::as_f32(i) } -> std::same_as<typename V::f32>;  // the same bits
  { V::as_i32(f) } -> std::same_as<typename V::i32>;
  { V::to_f32(i) } -> std::same_as<typename V::f32>;     // the same value
  { V::round_i32(f) } -> std::same_as<typename V::i32>;  // to nearest, ties to even; |f| < 2^31
  { V::from_f16(i) } -> std::same_as<typename V::f32>;   // of the low halves of the lanes
  { V::to_f16(f) } -> std::same_as<typename V::i32>;     // rounded, in the low halves

  // Integer arithmetic, wrapping.
  { V::add(i, i) } -> std::same_as<typename V::i32>;
  { V::sub(i, i) } -> std::same_as<typename V::i32>;
  { V::bit_and(i, i) } -> std::same_as<typename V::i32>;
  { V::bit_or(i, i) } -> std::same_as<typename V::i32>;
  { V::max(i, i) } -> std::same_as<typename V::i32>;
  { V::template shift_left<3>(i) } -> std::same_as<typename V::i32>;
  { V::template shift_right<3>(i) } -> std::same_as<typename V::i32>;  // logical
  { V::template shift_right_arithmetic<3>(i) } -> std::same_as<typename V::i32>;
  { V::template funnel_right<3>(i, i) } -> std::same_as<typename V::i32>;  // of 64 bits: the first argument below the second
  { V::reduce_max(i) } -> std::same_as<std::int32_t>;
  { V::reduce_add(i) } -> std::same_as<std::int32_t>;
  { V::count_at_least(i, word) } -> std::same_as<int>;           // lanes ≥ word
  { V::mask_at_least(i, word) } -> std::same_as<std::uint32_t>;  // the same as a bit mask, lane 0 lowest

  // Bytes.
  /// acc + Σ_4 w_u8 · x_s8 per lane, exact for w ≤ max_u.
  { V::template dot<127>(i, i, i) } -> std::same_as<typename V::i32>;
  /// table[nibble] for every byte of the argument, all of which are < 16.
  { V::lookup(table, i) } -> std::same_as<typename V::i32>;
  /// The low byte of each lane in four words: in order, or (EvenOdd) per 8 lanes the even ones, then the odd ones.
  { V::template pack_bytes<true>(i, &word) };
  /// 16 consecutive Bits-bit codes of a little-endian bit stream that starts at a byte; reads 2·Bits bytes.
  { V::template unpack_codes<5>(bytes) } -> std::same_as<typename V::i32>;
};

}  // namespace gqmm::cpu
