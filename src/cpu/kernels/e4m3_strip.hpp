// Strips of mxfp8, dequantized in registers.
#pragma once

#include "cpu/kernels/prefetch.hpp"
#include "cpu/kernels/scales.hpp"
#include "cpu/kernels/unpack.hpp"

namespace gqmm::cpu {
namespace {

/// Nonzero in the top bits of bytes that are an E4M3 NaN (0x7f or 0xff).
template <class V>
typename V::i32 e4m3_nans(typename V::i32 four) {  // 0x7f + 1 reaches the top bit of its byte, all others stay below
  return V::add(V::bit_and(four, V::broadcast(0x7f7f7f7f)), V::broadcast(0x01010101));
}
/// Of such vectors, ORed.
template <class V>
bool any_nan(typename V::i32 nans) {
  return V::mask_at_least(V::bit_and(V::template shift_right<1>(nans), V::broadcast(0x40404040)), 1) != 0;
}

/// Byte `byte` of each word, which is no NaN, over e4m3_unit: sign, exponent and mantissa where a float has them, the exponent's
/// bias as it was.
inline constexpr float e4m3_unit = 0x1p120F;
template <class V, int byte>
typename V::f32 e4m3_bits(typename V::i32 four) {
  typename V::i32 at_top = four;
  if constexpr (byte < 3) {
    at_top = V::template shift_left<24 - 8 * byte>(four);
  }
  const auto sign_and_copies = V::template shift_right_arithmetic<4>(at_top);
  return V::as_f32(V::bit_and(sign_and_copies, V::broadcast(static_cast<std::int32_t>(0x87f00000U))));
}

/// ŵ of a strip of E4M3 codes, in ascending k. If all are `ordinary`, no code is a NaN and no scale over 2^7: then e4m3_unit goes
/// into the scale.
template <class V, class F, bool ordinary>
class E4m3Strip {
 public:
  using i32 = typename V::i32;
  using f32 = typename V::f32;
  using U = Unit<V, F>;
  static constexpr int codes = U::codes;

  /// Memory outside of the object, whose members then stay in registers.
  struct Memory {
    RowCopies<V, U::words> copies;
    alignas(64) float scales[few_groups<F> * 2 * lanes];
  };

  /// Words [first, end) of the rows.
  E4m3Strip(const StripStream& stream, std::int64_t first, std::int64_t end, Memory& memory)
      : strip_(stream.strip),
        scales_(memory.scales),
        scale_(memory.scales),
        done_(first),
        at_(first),
        end_(end),
        packed_(strip_.packed ? strip_.codes : nullptr),
        blocks_(strip_, first, end, memory.copies),
        codes_ahead_(stream.next.codes, stream.after_next.codes, strip_.words, strip_.codes, stream.prefetch_to_l2),
        scales_ahead_(stream.next.scales, stream.after_next.scales, (strip_.words * 4 + float_block - 1) / float_block,
                      stream.prefetch_to_l2) {
    if constexpr (ahead) {
      load(words_);
    }
  }

  /// Before the codes of each float_block.
  void begin_block(std::int64_t k) {
    scales_ahead_.next();
    const std::int64_t group = k / group_size;
    if (group >= scales_until_) {
      const std::int64_t count = std::min<std::int64_t>(few_groups<F>, end_ * 4 / group_size - group);
      pack_scales<V, F::scale_encoding>(strip_, group, count, 1.0F, scales_);
      scale_ = scales_;
      scales_until_ = group + count;
    }
  }

  /// Calls sink.operator()<i>(ŵ) for the next i < codes.
  template <class Sink>
  [[gnu::always_inline]] void next(Sink sink) {
    i32 following[words];
    if constexpr (!ahead) {
      load(words_);
    } else if (at_ < end_) {
      load(following);
    } else {
      std::copy_n(words_, words, following);
    }
    f32 scale = V::load(scale_);
    if constexpr (ordinary) {
      largest_scale_ = V::max(largest_scale_, V::as_i32(scale));
      scale = V::mul(scale, V::broadcast(e4m3_unit));
    }
    unrolled<words>([&]<int word>() __attribute__((always_inline)) {
      codes_ahead_.next();
      if constexpr (ordinary) {
        nans_ = V::bit_or(nans_, e4m3_nans<V>(words_[word]));
      }
      unrolled<4>([&]<int byte>() __attribute__((always_inline)) {
        f32 value;
        if constexpr (ordinary) {
          value = e4m3_bits<V, byte>(words_[word]);
        } else {
          value = widen_part<V, ScaleType::e4m3, byte>(words_[word]);
        }
        sink.template operator()<4 * word + byte>(V::mul(value, scale));
      });
    });
    if constexpr (ahead) {
      std::copy_n(following, words, words_);
    }
    done_ += words;
    if (done_ % (group_size / 4) == 0) {
      scale_ += 2 * lanes;
    }
  }

  /// Were all of them ordinary?
  [[nodiscard]] bool was_ordinary() const {
    return !any_nan<V>(nans_) && V::mask_at_least(largest_scale_, std::int32_t{127 + 8} << 23) == 0;
  }

 private:
  static constexpr int words = U::words;
  static constexpr std::int64_t group_size = F::group_sizes[0];
  /// Load the next words before these are used, where registers hold both: as Units does.
  static constexpr bool ahead = 2 * words <= V::words_ahead;
  static_assert(words == block_words<V, F> && std::size(F::group_sizes) == 1 && F::scale_encoding == ScaleEncoding::e8m0);

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
  std::int64_t scales_until_ = 0;  // groups
  std::int64_t done_;              // words
  std::int64_t at_;                // the word to be loaded next
  std::int64_t end_;
  const std::byte* packed_;
  RowBlocks<V, words> blocks_;
  Prefetcher<V> codes_ahead_;
  SparsePrefetcher<V> scales_ahead_;
  i32 words_[words];
  i32 nans_ = V::broadcast(std::int32_t{0});
  i32 largest_scale_ = V::broadcast(std::int32_t{0});
};

/// Calls with_strip(E4m3Strip) for words [first, end), and, if they were not ordinary after all, once more.
template <class V, class F, class Function>
[[gnu::always_inline]] inline void with_e4m3_strip(const StripStream& stream, std::int64_t first, std::int64_t end,
                                                   Function with_strip) {
  {
    typename E4m3Strip<V, F, true>::Memory memory;
    E4m3Strip<V, F, true> strip(stream, first, end, memory);
    with_strip(strip);
    if (strip.was_ordinary()) [[likely]] {
      return;
    }
  }
  typename E4m3Strip<V, F, false>::Memory memory;
  E4m3Strip<V, F, false> strip(stream, first, end, memory);
  with_strip(strip);
}

}  // namespace
}  // namespace gqmm::cpu
