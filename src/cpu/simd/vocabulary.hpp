// The vocabulary concept: the operations that kernels need from an instruction set. Each file beside this one has one vocabulary,
// a struct of static functions. The functions work on two types of 16 lanes, whatever the width of the registers. A lane is one
// output of a strip (plan/packed.hpp). So packed weights and results do not depend on the instruction set, and kernels are
// written once.
//
//     f32   16 float32           i32   16 × 32 bits: int32, or 4 bytes each (w_u8, x_s8)
//
// All operations are exact or correctly rounded. So every instruction set gives the same bits, except for the sign and payload of
// a NaN (docs/reference/numerics.md).
#pragma once

#include "plan/tile.hpp"

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace gqmm::cpu {

inline constexpr int lanes = 16;

template <class V>
concept Vocabulary = requires(typename V::f32 f, typename V::i32 i, typename V::i32 (&words)[4], float* floats, float scalar,
                              const std::byte* bytes, std::byte* out, int n, std::int32_t word, const std::uint8_t (&table)[16],
                              std::int64_t stride) {
  // The sizes of the tiles: of the GEMM for 1, 2, 3 slices, and of the float GEMM.
  { V::gemm_tile[0] } -> std::convertible_to<TileSize>;
  { V::float_tile } -> std::convertible_to<TileSize>;
  /// The most rows that one integer GEMV kernel takes: a power of two, at most max_gemv_rows.
  { V::gemv_rows } -> std::convertible_to<int>;
  /// The most rows that one float GEMV kernel takes: a power of two.
  { V::float_gemv_rows } -> std::convertible_to<int>;
  { V::float_gemv_crossover } -> std::convertible_to<GemvCrossover>;
  /// Whether dot<255> has other code than dot<127>.
  { V::wide_dot_differs } -> std::convertible_to<bool>;
  /// The number of words of 16 rows that a decode kernel loads before their use (software pipelining). Registers hold them beside
  /// the sums and the current words.
  { V::pipelined_words } -> std::convertible_to<int>;
  /// Whether pick_bits<first, pitch>(i) exists. It sets byte j of a lane to the lane's 8 bits from first + j · pitch on. Bits
  /// beyond the ends of the lane may have any value.
  { V::picks_bits } -> std::convertible_to<bool>;

  // Memory. load and store take any address. n counts elements: the lanes past n become zero in a load and are not written by a
  // store.
  { V::load(floats) } -> std::same_as<typename V::f32>;
  { V::store(floats, f) };
  { V::load_words(bytes, n) } -> std::same_as<typename V::i32>;
  { V::load_u16(bytes, n) } -> std::same_as<typename V::i32>;
  { V::load_u8(bytes, n) } -> std::same_as<typename V::i32>;
  /// Loads four words of each of 16 rows, which lie `stride` bytes apart. Lane n of words[j] is word j of row n.
  { V::load_transposed(bytes, stride, words) };
  { V::store_words(out, i, n) };
  { V::store_u16(out, i, n) };  // the low halves of the lanes
  { V::broadcast(scalar) } -> std::same_as<typename V::f32>;
  { V::broadcast(word) } -> std::same_as<typename V::i32>;
  { V::prefetch(bytes) };
  { V::prefetch_l2(bytes) };  // into L2 only

  // Float arithmetic. Each operation rounds once.
  { V::add(f, f) } -> std::same_as<typename V::f32>;
  { V::sub(f, f) } -> std::same_as<typename V::f32>;
  { V::mul(f, f) } -> std::same_as<typename V::f32>;
  { V::div(f, f) } -> std::same_as<typename V::f32>;
  { V::fma(f, f, f) } -> std::same_as<typename V::f32>;  // a · b + c
  { V::canonical(f) } -> std::same_as<typename V::f32>;  // NaN becomes the positive quiet NaN

  // Choices between floats, as C++ makes them. A comparison with a NaN is false, so min and max return b then. They return b for
  // two zeros of any sign, too.
  { V::min(f, f) } -> std::same_as<typename V::f32>;                // a < b ? a : b
  { V::max(f, f) } -> std::same_as<typename V::f32>;                // a > b ? a : b
  { V::select_less(f, f, f, f) } -> std::same_as<typename V::f32>;  // a < b ? c : d

  { V::reduce_max(f) } -> std::same_as<float>;  // the largest lane; any value if a lane is a NaN

  // Conversions.
  { V::as_f32(i) } -> std::same_as<typename V::f32>;  // the same bits
  { V::as_i32(f) } -> std::same_as<typename V::i32>;
  { V::to_f32(i) } -> std::same_as<typename V::f32>;     // the same value
  { V::round_i32(f) } -> std::same_as<typename V::i32>;  // to nearest, ties to even; |f| < 2^31
  { V::from_f16(i) } -> std::same_as<typename V::f32>;   // of the low halves of the lanes
  { V::to_f16(f) } -> std::same_as<typename V::i32>;     // rounded, in the low halves

  // Integer arithmetic, which wraps.
  { V::add(i, i) } -> std::same_as<typename V::i32>;
  { V::sub(i, i) } -> std::same_as<typename V::i32>;
  { V::bit_and(i, i) } -> std::same_as<typename V::i32>;
  { V::bit_or(i, i) } -> std::same_as<typename V::i32>;
  { V::max(i, i) } -> std::same_as<typename V::i32>;
  { V::template shift_left<3>(i) } -> std::same_as<typename V::i32>;
  { V::template shift_right<3>(i) } -> std::same_as<typename V::i32>;  // logical
  { V::template shift_right_arithmetic<3>(i) } -> std::same_as<typename V::i32>;
  { V::template funnel_right<3>(i, i) } -> std::same_as<typename V::i32>;  // shifts 64 bits; the first argument is the low half
  { V::reduce_max(i) } -> std::same_as<std::int32_t>;
  { V::reduce_add(i) } -> std::same_as<std::int32_t>;
  { V::count_at_least(i, word) } -> std::same_as<int>;           // lanes ≥ word
  { V::mask_at_least(i, word) } -> std::same_as<std::uint32_t>;  // the same as a bit mask, lane 0 lowest

  // Bytes.
  /// Returns acc + Σ_4 w_u8 · x_s8 for each lane, exact for w ≤ max_u.
  { V::template dot<127>(i, i, i) } -> std::same_as<typename V::i32>;
  /// Returns table[nibble] for every byte of the argument. All bytes must be < 16.
  { V::lookup(table, i) } -> std::same_as<typename V::i32>;
  /// Writes the low byte of each lane to four words: in order, or (EvenOdd) the even ones of each 8 lanes before the odd ones.
  { V::template pack_bytes<true>(i, &word) };
  /// Loads 16 consecutive codes of Bits bits from a little-endian bit stream that starts at a byte. It reads 2·Bits bytes.
  { V::template unpack_codes<5>(bytes) } -> std::same_as<typename V::i32>;
};

}  // namespace gqmm::cpu
