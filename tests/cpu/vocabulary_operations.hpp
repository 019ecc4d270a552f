// The operations of a vocabulary (cpu/simd/vocabulary.hpp) behind plain function pointers over memory. A file per instruction set
// includes this header and is compiled with the flags of that set. So that file may export nothing but one function, as a file of
// cpu/targets: no code of the standard library may leave it. The elementary functions, which consist of such operations, are
// among them: they must agree likewise.
#pragma once

#include "cpu/kernels/elementary_functions.hpp"
#include "cpu/kernels/flush.hpp"
#include "cpu/kernels/unrolled.hpp"
#include "cpu/simd/vocabulary.hpp"

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace gqmm::cpu {

/// 16 lanes of 32 bits: a vector in memory.
struct Lanes {
  std::uint32_t lane[lanes];
};

/// The words that an argument may hold.
enum class Domain : std::uint8_t {
  any,
  below_2_to_31,  ///< floats whose magnitude is less than 2^31
  not_positive,   ///< floats
  nibbles,        ///< bytes below 16
  bytes_to_127,
  bytes_to_128,
};

/// What the contract promises of the result. NaN operands and invalid operations give a NaN on every instruction set, but its
/// sign and payload are the processor's.
enum class Promise : std::uint8_t {
  same_bits,
  same_float,  ///< the same bits, or both are NaN
  same_half,   ///< likewise, of float16 in the low half
};

/// A function of up to three vectors.
struct Operation {
  const char* name = nullptr;
  Promise promise = Promise::same_bits;
  int arguments = 0;
  Domain domain[3] = {};
  int results = 1;  ///< vectors that are written to `out`, at most max_results
  void (*run)(const Lanes* in, Lanes* out) = nullptr;
};
inline constexpr int max_results = 32;

/// Settings of pick_bits that are tested: `first` and `pitch`.
struct PickedBits {
  int first;
  int pitch;
};
inline constexpr PickedBits picked_bits[] = {{0, 1},  {0, 2}, {1, 2}, {0, 3},  {8, 3},  {0, 5},
                                             {12, 5}, {0, 6}, {5, 6}, {-4, 2}, {-2, 4}, {-1, 10}};
inline constexpr int picked_bits_count = 12;

struct VocabularyOperations {
  const Operation* operations = nullptr;
  int count = 0;
  void (*pick_bits)(const Lanes& in,
                    Lanes* out) = nullptr;  ///< one result for each of picked_bits; nullptr if there is no such operation

  Lanes (*load_words)(const std::byte* from, int n) = nullptr;
  Lanes (*load_u16)(const std::byte* from, int n) = nullptr;
  Lanes (*load_u8)(const std::byte* from, int n) = nullptr;
  void (*store_words)(std::byte* to, const Lanes& words, int n) = nullptr;
  void (*store_u16)(std::byte* to, const Lanes& words, int n) = nullptr;
  Lanes (*load)(const float* from) = nullptr;
  void (*store)(float* to, const Lanes& value) = nullptr;
  void (*load_transposed)(const std::byte* from, std::int64_t stride, Lanes (&words)[4]) = nullptr;
  void (*prefetch)(const std::byte* address) = nullptr;  ///< both kinds
  Lanes (*unpack_codes[8])(const std::byte* from) = {};  ///< [bits − 1]

  /// [slices − 1][biased]
  Lanes (*flush_group[max_slices][2])(const Lanes* sums, const float* x_scales, const Lanes& scale, const Lanes& bias,
                                      const Lanes& y) = {};
};

namespace {

template <class V>
typename V::i32 words_of(const Lanes& a) {
  return V::load_words(reinterpret_cast<const std::byte*>(a.lane), lanes);
}
template <class V>
typename V::f32 floats_of(const Lanes& a) {
  return V::as_f32(words_of<V>(a));
}
template <class V>
Lanes lanes_of(typename V::i32 a) {
  Lanes result;
  V::store_words(reinterpret_cast<std::byte*>(result.lane), a, lanes);
  return result;
}
template <class V, class Vector>
Lanes stored(Vector a) {
  if constexpr (std::same_as<Vector, typename V::f32>) {
    return lanes_of<V>(V::as_i32(a));
  } else {
    return lanes_of<V>(a);
  }
}

/// function(vector …) → vector
template <class V, class Function>
constexpr Operation of_floats(const char* name, Promise promise, int arguments, Function, Domain domain = Domain::any) {
  return {name, promise, arguments, {domain}, 1, [](const Lanes* in, Lanes* out) {
            *out = stored<V>(Function()(floats_of<V>(in[0]), floats_of<V>(in[1]), floats_of<V>(in[2])));
          }};
}
template <class V, class Function>
constexpr Operation of_words(const char* name, Promise promise, int arguments, Function, Domain first = Domain::any,
                             Domain second = Domain::any) {
  return {name, promise, arguments, {first, second}, 1, [](const Lanes* in, Lanes* out) {
            *out = stored<V>(Function()(words_of<V>(in[0]), words_of<V>(in[1]), words_of<V>(in[2])));
          }};
}
/// function.operator()<n>(vector …) → vector, for shifts by n = 1 … 31
template <class V, class Function>
constexpr Operation of_shifts(const char* name, int arguments, Function) {
  return {name, Promise::same_bits, arguments, {}, 31, [](const Lanes* in, Lanes* out) {
            unrolled<31>([&]<int i>() {
              out[i] = lanes_of<V>(Function().template operator()<i + 1>(words_of<V>(in[0]), words_of<V>(in[1])));
            });
          }};
}
/// function(vector, word) → whole number, for each lane of the second argument as the word
template <class V, class Function>
constexpr Operation to_number(const char* name, int arguments, Function) {
  return {name, Promise::same_bits, arguments, {}, 1, [](const Lanes* in, Lanes* out) {
            for (int l = 0; l < lanes; ++l) {
              out->lane[l] = static_cast<std::uint32_t>(Function()(words_of<V>(in[0]), static_cast<std::int32_t>(in[1].lane[l])));
            }
          }};
}
template <class V, class Scalar>
constexpr Operation broadcasts(const char* name) {
  return {name, Promise::same_bits, 1, {}, lanes, [](const Lanes* in, Lanes* out) {
            for (int l = 0; l < lanes; ++l) {
              out[l] = stored<V>(V::broadcast(__builtin_bit_cast(Scalar, in->lane[l])));
            }
          }};
}
template <class V, bool even_odd>
constexpr Operation packs_bytes(const char* name) {
  return {name, Promise::same_bits, 1, {}, 1, [](const Lanes* in, Lanes* out) {
            V::template pack_bytes<even_odd>(words_of<V>(*in), reinterpret_cast<std::int32_t*>(out->lane));
          }};
}
template <class V, int max_u>
constexpr Operation dot(const char* name, Domain codes) {
  return of_words<V>(
      name, Promise::same_bits, 3, [](auto sum, auto w, auto x) { return V::template dot<max_u>(sum, w, x); }, Domain::any,
      codes);
}
inline constexpr std::uint8_t lookup_table[16] = {0, 255, 3, 128, 7, 127, 1, 200, 12, 18, 24, 99, 250, 64, 32, 16};

template <class V>
inline constexpr Operation operations[] = {
    broadcasts<V, float>("broadcast, float"),
    broadcasts<V, std::int32_t>("broadcast, int"),

    of_floats<V>("add, floats", Promise::same_float, 2, [](auto a, auto b, auto) { return V::add(a, b); }),
    of_floats<V>("sub, floats", Promise::same_float, 2, [](auto a, auto b, auto) { return V::sub(a, b); }),
    of_floats<V>("mul", Promise::same_float, 2, [](auto a, auto b, auto) { return V::mul(a, b); }),
    of_floats<V>("div", Promise::same_float, 2, [](auto a, auto b, auto) { return V::div(a, b); }),
    of_floats<V>("fma", Promise::same_float, 3, [](auto a, auto b, auto c) { return V::fma(a, b, c); }),
    of_floats<V>("canonical", Promise::same_bits, 1, [](auto a, auto, auto) { return V::canonical(a); }),
    of_floats<V>("min, floats", Promise::same_bits, 2, [](auto a, auto b, auto) { return V::min(a, b); }),
    of_floats<V>("max, floats", Promise::same_bits, 2, [](auto a, auto b, auto) { return V::max(a, b); }),
    of_floats<V>("select_less, c", Promise::same_bits, 3, [](auto a, auto b, auto c) { return V::select_less(a, b, c, a); }),
    of_floats<V>("select_less, d", Promise::same_bits, 3, [](auto a, auto b, auto c) { return V::select_less(a, b, b, c); }),

    of_floats<V>(
        "exp_nonpositive", Promise::same_float, 1, [](auto a, auto, auto) { return exp_nonpositive<V>(a); },
        Domain::not_positive),
    of_floats<V>(
        "exp2_nonpositive", Promise::same_float, 1, [](auto a, auto, auto) { return exp2_nonpositive<V>(a); },
        Domain::not_positive),
    of_floats<V>("exp", Promise::same_float, 1, [](auto a, auto, auto) { return exp<V>(a); }),
    of_floats<V>("softplus", Promise::same_float, 1, [](auto a, auto, auto) { return softplus<V>(a); }),
    of_floats<V>("sigmoid", Promise::same_float, 1, [](auto a, auto, auto) { return sigmoid<V>(a); }),
    of_floats<V>("tanh", Promise::same_float, 1, [](auto a, auto, auto) { return tanh<V>(a); }),
    of_floats<V>("normal_cdf", Promise::same_float, 1, [](auto a, auto, auto) { return normal_cdf<V>(a); }),

    of_floats<V>(
        "reduce_max, floats", Promise::same_float, 1, [](auto a, auto, auto) { return V::broadcast(V::reduce_max(a)); },
        Domain::below_2_to_31),

    of_words<V>("to_f32", Promise::same_bits, 1, [](auto a, auto, auto) { return V::to_f32(a); }),
    of_floats<V>(
        "round_i32", Promise::same_bits, 1, [](auto a, auto, auto) { return V::round_i32(a); }, Domain::below_2_to_31),
    of_words<V>("from_f16", Promise::same_float, 1, [](auto a, auto, auto) { return V::from_f16(a); }),
    of_floats<V>("to_f16", Promise::same_half, 1, [](auto a, auto, auto) { return V::to_f16(a); }),

    of_words<V>("add, ints", Promise::same_bits, 2, [](auto a, auto b, auto) { return V::add(a, b); }),
    of_words<V>("sub, ints", Promise::same_bits, 2, [](auto a, auto b, auto) { return V::sub(a, b); }),
    of_words<V>("bit_and", Promise::same_bits, 2, [](auto a, auto b, auto) { return V::bit_and(a, b); }),
    of_words<V>("bit_or", Promise::same_bits, 2, [](auto a, auto b, auto) { return V::bit_or(a, b); }),
    of_words<V>("max, ints", Promise::same_bits, 2, [](auto a, auto b, auto) { return V::max(a, b); }),
    of_shifts<V>("shift_left", 1, []<int n>(auto a, auto) { return V::template shift_left<n>(a); }),
    of_shifts<V>("shift_right", 1, []<int n>(auto a, auto) { return V::template shift_right<n>(a); }),
    of_shifts<V>("shift_right_arithmetic", 1, []<int n>(auto a, auto) { return V::template shift_right_arithmetic<n>(a); }),
    of_shifts<V>("funnel_right", 2, []<int n>(auto a, auto b) { return V::template funnel_right<n>(a, b); }),
    to_number<V>("reduce_max", 1, [](auto a, std::int32_t) { return V::reduce_max(a); }),
    to_number<V>("reduce_add", 1, [](auto a, std::int32_t) { return V::reduce_add(a); }),
    to_number<V>("count_at_least", 2, [](auto a, std::int32_t bound) { return V::count_at_least(a, bound); }),
    to_number<V>("mask_at_least", 2, [](auto a, std::int32_t bound) { return V::mask_at_least(a, bound); }),

    dot<V, 15>("dot<15>", Domain::nibbles),
    dot<V, 127>("dot<127>", Domain::bytes_to_127),
    dot<V, 128>("dot<128>", Domain::bytes_to_128),
    dot<V, 255>("dot<255>", Domain::any),
    of_words<V>(
        "lookup", Promise::same_bits, 1, [](auto a, auto, auto) { return V::lookup(lookup_table, a); }, Domain::nibbles),
    packs_bytes<V, false>("pack_bytes, in order"),
    packs_bytes<V, true>("pack_bytes, even and odd"),
};

template <class V, int slices, bool biased>
Lanes flush(const Lanes* sums, const float* x_scales, const Lanes& scale, const Lanes& bias, const Lanes& y) {
  typename V::i32 sum[slices];
  for (int p = 0; p < slices; ++p) {
    sum[p] = words_of<V>(sums[p]);
  }
  return stored<V>(flush_group<V, slices, biased>(sum, x_scales, floats_of<V>(scale), floats_of<V>(bias), floats_of<V>(y)));
}

template <class V, int bits>
Lanes unpack(const std::byte* from) {
  return lanes_of<V>(V::template unpack_codes<bits>(from));
}

template <class V>
constexpr VocabularyOperations make_operations() {
  VocabularyOperations made = {.unpack_codes = {unpack<V, 1>, unpack<V, 2>, unpack<V, 3>, unpack<V, 4>, unpack<V, 5>,
                                                unpack<V, 6>, unpack<V, 7>, unpack<V, 8>},
                               .flush_group = {{flush<V, 1, false>, flush<V, 1, true>},
                                               {flush<V, 2, false>, flush<V, 2, true>},
                                               {flush<V, 3, false>, flush<V, 3, true>}}};
  made.operations = operations<V>;
  made.count = sizeof operations<V> / sizeof(Operation);
  if constexpr (V::picks_bits) {
    made.pick_bits = [](const Lanes& in, Lanes* out) {
      unrolled<picked_bits_count>([&]<int i>() {
        out[i] = lanes_of<V>(V::template pick_bits<picked_bits[i].first, picked_bits[i].pitch>(words_of<V>(in)));
      });
    };
  }
  made.load_words = [](const std::byte* from, int n) { return lanes_of<V>(V::load_words(from, n)); };
  made.load_u16 = [](const std::byte* from, int n) { return lanes_of<V>(V::load_u16(from, n)); };
  made.load_u8 = [](const std::byte* from, int n) { return lanes_of<V>(V::load_u8(from, n)); };
  made.store_words = [](std::byte* to, const Lanes& words, int n) { V::store_words(to, words_of<V>(words), n); };
  made.store_u16 = [](std::byte* to, const Lanes& words, int n) { V::store_u16(to, words_of<V>(words), n); };
  made.load = [](const float* from) { return stored<V>(V::load(from)); };
  made.store = [](float* to, const Lanes& value) { V::store(to, floats_of<V>(value)); };
  made.load_transposed = [](const std::byte* from, std::int64_t stride, Lanes(&out)[4]) {
    typename V::i32 words[4];
    V::load_transposed(from, stride, words);
    for (int j = 0; j < 4; ++j) {
      out[j] = lanes_of<V>(words[j]);
    }
  };
  made.prefetch = [](const std::byte* address) {
    V::prefetch(address);
    V::prefetch_l2(address);
  };
  return made;
}

}  // namespace
}  // namespace gqmm::cpu
