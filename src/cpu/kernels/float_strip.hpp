// Dequantizes strips in registers, for formats without an integer form. Their codes are small floats of one byte.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/prefetch.hpp"
#include "cpu/kernels/scales.hpp"
#include "cpu/kernels/unpack.hpp"

namespace gqmm::cpu {
namespace {

/// Marks the bytes that are a special code of the type (Inf or NaN): their top bit is set in the result. The function adds to
/// each magnitude what the smallest special code lacks to 0x80. Only special codes then reach the top bit of their byte.
template <class V, SmallFloat type>
typename V::i32 special_codes(typename V::i32 four) {
  constexpr std::int32_t lacks = 0x80 - static_cast<std::int32_t>(type.first_special());
  return V::add(V::bit_and(four, V::broadcast(0x7f7f7f7f)), V::broadcast(0x01010101 * lacks));
}
/// Whether any byte is marked. `codes` is the OR of results of special_codes.
template <class V>
bool any_special(typename V::i32 codes) {
  return V::mask_at_least(V::bit_and(V::template shift_right<1>(codes), V::broadcast(0x40404040)), 1) != 0;
}

/// Returns value / type.unit() for byte `byte` of each word, which must not be a special code. Sign, exponent and mantissa are
/// moved to where float32 has them. The exponent keeps the bias of the small type, which the factor unit() corrects.
template <class V, SmallFloat type, int byte>
typename V::f32 value_over_unit(typename V::i32 four) {
  typename V::i32 at_top = four;
  if constexpr (byte < 3) {
    at_top = V::template shift_left<24 - 8 * byte>(four);
  }
  const auto sign_and_copies = V::template shift_right_arithmetic<8 - type.exponent_bits>(at_top);
  constexpr std::uint32_t kept = 0x80000000U | type.magnitude_mask() << (23 - type.mantissa_bits);
  return V::as_f32(V::bit_and(sign_and_copies, V::broadcast(static_cast<std::int32_t>(kept))));
}

/// A source of ŵ for one strip, in ascending k. `ordinary` selects a faster form. It assumes that no code is special and that
/// every scale times the type's unit is finite. Then the unit is multiplied into the scale.
template <class V, class F, bool ordinary>
class FloatStrip {
 public:
  using i32 = typename V::i32;
  using f32 = typename V::f32;
  using Bundle = CodeBundle<V, F>;
  static constexpr int codes = Bundle::codes;

  /// Memory outside of the object. The object's own members then stay in registers.
  struct Memory {
    StripCopies<V, Bundle::words> copies;
    alignas(64) float scales[gemv_scale_groups<F> * 2 * lanes];
  };

  /// Yields the weights of the words [first, end) of each row.
  FloatStrip(const StripStream& stream, std::int64_t first, std::int64_t end, Memory& memory)
      : strip_(stream.strip),
        scales_(memory.scales),
        scale_(memory.scales),
        done_(first),
        at_(first),
        end_(end),
        packed_(strip_.packed ? strip_.codes : nullptr),
        blocks_(strip_, first, end, memory.copies),
        codes_prefetcher_(stream.near.codes, stream.far.codes, strip_.words, strip_.codes, stream.prefetch_to_l2),
        scales_prefetcher_(stream.near.scales, stream.far.scales, (strip_.words * 4 + float_block - 1) / float_block,
                           stream.prefetch_to_l2) {
    GQMM_ASSERT(first % words == 0 && end % words == 0);
    if constexpr (pipelined) {
      load(words_);
    }
  }

  /// Must be called before the codes of each float_block.
  void begin_block(std::int64_t k) {
    GQMM_ASSERT(k % group_size == 0);
    scales_prefetcher_.next();
    const std::int64_t group = k / group_size;
    if (group >= scales_until_) {
      const std::int64_t count = std::min<std::int64_t>(gemv_scale_groups<F>, end_ * 4 / group_size - group);
      pack_scales<V, F::scale_encoding>(strip_, group, count, 1.0F, scales_);
      scale_ = scales_;
      scales_until_ = group + count;
    }
  }

  /// Calls sink.operator()<i>(ŵ) for the next `codes` values of k.
  template <class Sink>
  [[gnu::always_inline]] void next(Sink sink) {
    i32 following[words];
    if constexpr (!pipelined) {
      load(words_);
    } else if (at_ < end_) {
      load(following);
    } else {
      std::copy_n(words_, words, following);
    }
    f32 scale = V::load(scale_);
    if constexpr (ordinary) {
      largest_scale_ = V::max(largest_scale_, V::as_i32(scale));
      scale = V::mul(scale, V::broadcast(unit));
    }
    unrolled<words>([&]<int word>() __attribute__((always_inline)) {
      codes_prefetcher_.next();
      if constexpr (ordinary) {
        specials_ = V::bit_or(specials_, special_codes<V, type>(words_[word]));
      }
      unrolled<4>([&]<int byte>() __attribute__((always_inline)) {
        f32 value;
        if constexpr (ordinary) {
          value = value_over_unit<V, type, byte>(words_[word]);
        } else {
          value = small_float_part<V, type, byte>(words_[word]);
        }
        sink.template operator()<4 * word + byte>(V::mul(value, scale));
      });
    });
    if constexpr (pipelined) {
      std::copy_n(following, words, words_);
    }
    done_ += words;
    if (done_ % (group_size / 4) == 0) {
      scale_ += 2 * lanes;
    }
  }

  /// Whether the assumption of `ordinary` was true for all codes and scales so far.
  [[nodiscard]] bool was_ordinary() const {
    // The exponent of type.unit() is 127 − bias. So a scale below 2^128 / unit stays finite when it is multiplied by the unit.
    return !any_special<V>(specials_) && V::mask_at_least(largest_scale_, (128 + type.bias) << 23) == 0;
  }

 private:
  static constexpr SmallFloat type = *F::float_code;
  static constexpr float unit = type.unit();
  static constexpr int words = Bundle::words;
  static constexpr std::int64_t group_size = F::group_sizes[0];
  /// Software pipelining: the next words are loaded before the current ones are used. Both must fit in the registers that
  /// V::pipelined_words counts, because this kernel also holds up to 16 sums. BundleWalker counts the next words alone.
  static constexpr bool pipelined = 2 * words <= V::pipelined_words;
  static_assert(type.bits() == 8 && F::bits == 8, "codes are taken from the bytes of a word");
  static_assert(words == block_words<V, F>, "a bundle is loaded at once");
  static_assert(std::size(F::group_sizes) == 1, "the group size is a constant here");
  static_assert(F::scale_encoding == ScaleEncoding::e8m0, "scales have no sign, so that the largest magnitude is the largest");

  [[gnu::always_inline]] void load(i32 (&out)[words]) {
    if (packed_ != nullptr) {
      for (int j = 0; j < words; ++j) {
        out[j] = V::load_words(packed_ + (at_ + j) * 64, 16);
      }
    } else {
      blocks_.next(out);
    }
    at_ += words;
  }

  const WeightStrip& strip_;
  float* scales_;
  const float* scale_;
  std::int64_t scales_until_ = 0;  // the first group whose scales are not in scales_ yet
  std::int64_t done_;              // number of words used
  std::int64_t at_;                // the word to be loaded next
  std::int64_t end_;
  const std::byte* packed_;
  StripBlocks<V, words> blocks_;
  Prefetcher<V> codes_prefetcher_;
  SparsePrefetcher<V> scales_prefetcher_;
  i32 words_[words];
  i32 specials_ = V::broadcast(std::int32_t{0});
  i32 largest_scale_ = V::broadcast(std::int32_t{0});
};

/// Calls with_strip(strip) for words [first, end) with the faster form of FloatStrip. If a code or a scale was not ordinary,
/// calls it again with the general form. The second call must overwrite what the first one wrote.
template <class V, class F, class Function>
[[gnu::always_inline]] inline void with_float_strip(const StripStream& stream, std::int64_t first, std::int64_t end,
                                                    Function with_strip) {
  {
    typename FloatStrip<V, F, true>::Memory memory;
    FloatStrip<V, F, true> strip(stream, first, end, memory);
    with_strip(strip);
    if (strip.was_ordinary()) [[likely]] {
      return;
    }
  }
  typename FloatStrip<V, F, false>::Memory memory;
  FloatStrip<V, F, false> strip(stream, first, end, memory);
  with_strip(strip);
}

}  // namespace
}  // namespace gqmm::cpu
