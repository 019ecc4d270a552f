// Unpacks codes: from the words of 16 rows of w to the bytes that dot products take.
//
// Four words of each of 16 rows are loaded and transposed. They become vectors w[j] whose lane n is word j of row n. A bundle has
// 32 codes, or 16 for groups of 16. So it fills whole words for any number of bits, and takes `words` vectors. Formats of the
// float path have bundles of 16 codes, which leave registers for their sums. The codes then become panel lines:
//
//     nibbles   lane n of line i holds codes 8i … 8i+7 of the bundle, 4 bits each  (formats of at most 4 bits)
//     bytes     lane n of line i holds codes 4i … 4i+3, 8 bits each                (the others)
//     bytes     lane n of line 2i holds the even codes of 8i … 8i+7, that of line 2i+1 the odd ones  (those with a table)
//
// A step is one dot product: 4 k. A line of nibbles gives two steps: first the even k of 8 (the low nibbles), then the odd k. For
// nibbles and for tables, x is sliced in the same order ("even_odd").
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/strip_blocks.hpp"
#include "formats/format.hpp"

#include <algorithm>
#include <numeric>

namespace gqmm::cpu {
namespace {

/// Repeats the mask every `pitch` bits of a word.
constexpr std::int32_t repeat(std::uint64_t mask, int pitch) {
  std::uint64_t word = 0;
  for (int at = 0; at < 32; at += pitch) {
    word |= mask << at;
  }
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(word));
}

/// Spreads `count` codes from `from` bits to `to` bits each. The codes lie side by side at the bottom of each word. The upper
/// half of the codes moves up to its final place. Then both halves, `pitch` bits apart, are spread in the same way.
template <class V, int from, int to, int count>
typename V::i32 spread(typename V::i32 v) {
  if constexpr (count == 1 || from == to) {
    return v;
  } else {
    constexpr int half = count / 2;
    constexpr std::uint64_t low = (std::uint64_t{1} << (half * from)) - 1;
    constexpr int pitch = count * to;
    const auto lower = V::bit_and(v, V::broadcast(repeat(low, pitch)));
    const auto upper = V::bit_and(v, V::broadcast(repeat(low << (half * from), pitch)));
    return spread<V, from, to, half>(V::bit_or(lower, V::template shift_left<half*(to - from)>(upper)));
  }
}

/// Returns the u8 codes of step `step`. line(i) returns panel line i of the bundle.
template <class V, bool nibbles, class Line>
typename V::i32 step_codes(int step, Line line) {
  if constexpr (nibbles) {
    const auto mask = V::broadcast(0x0f0f0f0f);
    const auto pair = line(step / 2);
    return V::bit_and(step % 2 == 0 ? pair : V::template shift_right<4>(pair), mask);
  } else {
    return line(step);
  }
}

template <class V, class F>
struct CodeBundle {
  using i32 = typename V::i32;
  // On the float path, registers hold two bundles beside 16 sums: the current one and the next one.
  static constexpr int codes = !F::integer.exists ? 16 : F::group_sizes[0] < 32 ? F::group_sizes[0] : 32;
  static constexpr int words = codes * F::bits / 32;
  static constexpr bool nibbles = F::bits <= 4 && !F::integer.has_table;
  static constexpr bool even_odd = nibbles || F::integer.has_table;
  static constexpr int steps = codes / 4;
  static constexpr int lines = nibbles ? codes / 8 : codes / 4;
  static constexpr PanelKind panel = nibbles                  ? PanelKind::nibbles
                                     : !F::has_biases         ? PanelKind::signed_bytes
                                     : F::integer.max_u < 128 ? PanelKind::bytes
                                                              : PanelKind::wide_bytes;
  static_assert(!F::integer.exists || F::has_biases || (!nibbles && F::integer.max_u < 128),
                "without biases there are GEMM kernels for bytes below 128 only");
  static_assert(!F::integer.exists || codes == 32 || !F::has_biases, "groups of 16 have GEMM kernels without biases only");
  static constexpr bool panel_is_raw = !F::integer.has_table && (F::bits == 4 || F::bits == 8);

  /// True: the codes of each step are picked directly from the words. False: they are cut from a panel line.
  static constexpr bool picks_bits = V::picks_bits && !F::integer.has_table && !panel_is_raw;
  static constexpr int sources = picks_bits ? words : lines;

  /// Converts the words in[0 … words) of a bundle to its panel lines.
  static void to_lines(const i32* in, i32* out) {
    if constexpr (F::integer.has_table) {
      const auto& table = F::integer.table;
      const i32 mask = V::broadcast(0x0f0f0f0f);
      for (int i = 0; i < words; ++i) {
        out[2 * i] = V::lookup(table, V::bit_and(in[i], mask));
        out[2 * i + 1] = V::lookup(table, V::bit_and(V::template shift_right<4>(in[i]), mask));
      }
    } else if constexpr (panel_is_raw) {
      for (int i = 0; i < words; ++i) {
        out[i] = in[i];
      }
    } else {
      unrolled<lines>([&]<int line>() __attribute__((always_inline)) { out[line] = panel_line<line>(in); });
    }
  }
  /// Converts the words in[0 … words) of a bundle to out[0 … sources), from which step() takes its codes.
  static void to_sources(const i32* in, i32* out) {
    if constexpr (picks_bits) {
      for (int i = 0; i < words; ++i) {
        out[i] = in[i];
      }
    } else {
      to_lines(in, out);
    }
  }
  /// Returns the u8 codes of step `number`.
  template <int number>
  static i32 step(const i32* source) {
    if constexpr (!picks_bits) {
      return step_codes<V, nibbles>(number, [&](int line) { return source[line]; });
    } else if constexpr (nibbles) {
      return pick<number / 2, number % 2, 2, 0>(source);
    } else {
      return pick<number, 0, 1, 0>(source);
    }
  }

 private:
  static constexpr int codes_per_line = codes / lines;
  static constexpr int line_bits = codes_per_line * F::bits;
  template <int line>
  static constexpr int line_shift = line * line_bits % 32;
  template <int line>
  static constexpr bool crosses_words = line_shift<line> + line_bits > 32;

  /// Returns the codes of a line that crosses from one word to the next. They lie at the bottom of the result.
  template <int line>
  static i32 joined(const i32* in) {
    constexpr int word = line * line_bits / 32;
    return V::template funnel_right<line_shift<line>>(in[word], in[word + 1]);
  }

  template <int line>
  static i32 panel_line(const i32* in) {
    if constexpr (!picks_bits) {
      i32 field;
      if constexpr (crosses_words<line>) {
        field = joined<line>(in);
      } else if constexpr (line_shift<line> != 0) {
        field = V::template shift_right<line_shift<line>>(in[line * line_bits / 32]);
      } else {
        field = in[line * line_bits / 32];
      }
      return spread<V, F::bits, 32 / codes_per_line, codes_per_line>(field);
    } else if constexpr (nibbles) {
      return V::bit_or(pick<line, 0, 2, 0>(in), pick<line, 1, 2, 4>(in));
    } else {
      return pick<line, 0, 1, 0>(in);
    }
  }

  /// Returns four codes of a line: numbers first, first + stride, … Each lies in a byte, from bit `up` on.
  template <int line, int first, int stride, int up>
  static i32 pick(const i32* in) {
    constexpr int below = first * F::bits - up;
    constexpr std::uint64_t mask = ((std::uint64_t{1} << F::bits) - 1) << up;
    i32 windows;
    if constexpr (crosses_words<line>) {
      windows = V::template pick_bits<below, stride * F::bits>(joined<line>(in));
    } else {
      windows = V::template pick_bits<line_shift<line> + below, stride * F::bits>(in[line * line_bits / 32]);
    }
    return V::bit_and(windows, V::broadcast(repeat(mask, 8)));
  }
};

/// The words of a block: the fewest that are whole bundles and whole loads of four words.
template <class V, class F>
inline constexpr int block_words = std::lcm(CodeBundle<V, F>::words, 4);

/// Walks through the bundles in the words [first, end) of a strip, in order. Lane n is row n of w. Rows that do not exist repeat
/// the last one.
template <class V, class F>
class BundleWalker {
 public:
  using i32 = typename V::i32;
  using Copies = StripCopies<V, block_words<V, F>>;

  BundleWalker(const WeightStrip& strip, std::int64_t first, std::int64_t end, Copies& copies)
      : packed_(strip.packed ? strip.codes + first * 64 : nullptr), at_(first), end_(end), blocks_(strip, first, end, copies) {}

  /// Blocks of more than two bundles can be walked through in a loop over their bundles, from memory. Unrolled, the products of
  /// such blocks with several rows of x were a fifth of an instruction set's code (docs/notebook/compiling.md).
  static constexpr bool can_loop = block_words<V, F> / CodeBundle<V, F>::words > 2;

  /// Calls each(words) for every bundle up to word `until`. That must be the end of a block or of the walk. All calls for a
  /// walker have the same `looped`: whether to walk through the bundles of a block in a loop.
  template <bool looped = false, class Each>
  [[gnu::always_inline]] void walk(std::int64_t until, Each each) {
    GQMM_ASSERT(until >= at_ && until <= end_);
    if constexpr (looped) {
      walk_in_loop(until, each);
      return;
    }
    if (packed_ != nullptr) {
      walk_packed(until, each);
      return;
    }
    if (pipelined && !begun_) {
      blocks_.next(block_);
      begun_ = true;
    }
    for (; at_ < until; at_ += size) {
      i32 next[size];
      if constexpr (!pipelined) {
        blocks_.next(block_);
      } else if (at_ + size < end_) {
        blocks_.next(next);
      } else {
        std::copy_n(block_, size, next);
      }
      unrolled<size / words>([&]<int bundle>() __attribute__((always_inline)) {
        if (at_ + bundle * words < end_) {
          each(block_ + bundle * words);
        }
      });
      if constexpr (pipelined) {
        std::copy_n(next, size, block_);
      }
    }
  }

 private:
  static constexpr int words = CodeBundle<V, F>::words;
  static constexpr int size = block_words<V, F>;
  /// Software pipelining: the next block is loaded before the bundles of the current one are used. Then the shuffles of one run
  /// beside the arithmetic of the other. This needs registers for two blocks.
  static constexpr bool pipelined = size <= V::pipelined_words;

  template <class Each>
  [[gnu::always_inline]] void walk_packed(std::int64_t until, Each each) {
    for (; at_ < until; at_ += words) {
      i32 bundle[words];
      for (int j = 0; j < words; ++j) {
        bundle[j] = V::load_words(packed_ + j * 64, 16);
      }
      packed_ += words * 64;
      each(bundle);
    }
  }

  template <class Each>
  [[gnu::always_inline]] void walk_in_loop(std::int64_t until, Each each) {
    static_assert(sizeof(i32) == 64, "a block in memory looks like packed words");
    while (at_ < until) {
      i32 block[size];
      const std::byte* from = packed_;
      std::int64_t left = until - at_;
      if (packed_ != nullptr) {
        packed_ += left * 64;
      } else {
        blocks_.next(block);
        from = reinterpret_cast<const std::byte*>(block);
        left = std::min<std::int64_t>(left, size);
      }
      at_ += left;
#pragma GCC unroll 1
      for (; left > 0; left -= words) {
        i32 bundle[words];
        for (int j = 0; j < words; ++j) {
          bundle[j] = V::load_words(from + j * 64, 16);
        }
        from += words * 64;
        each(bundle);
      }
    }
  }

  const std::byte* packed_;
  std::int64_t at_;
  std::int64_t end_;
  StripBlocks<V, size> blocks_;
  bool begun_ = false;
  i32 block_[size];
};

template <class V, class F>
void pack_strip(const WeightStrip& strip, std::int64_t k0, std::int64_t count, std::byte* panel) {
  using Bundle = CodeBundle<V, F>;
  GQMM_ASSERT(k0 >= 0 && k0 % Bundle::codes == 0);
  GQMM_ASSERT(count >= Bundle::codes && count % Bundle::codes == 0 && (k0 + count) * F::bits / 32 <= strip.words);
  using i32 = typename V::i32;
  const auto pack_bundle = [&panel](const i32* words) {
    i32 line[Bundle::lines];
    Bundle::to_lines(words, line);
    for (int i = 0; i < Bundle::lines; ++i) {
      V::store_words(panel, line[i], 16);
      panel += 64;
    }
  };
  const std::int64_t end = (k0 + count) * F::bits / 32;
  typename BundleWalker<V, F>::Copies copies;
  BundleWalker<V, F>(strip, k0 * F::bits / 32, end, copies).walk(end, pack_bundle);
}

}  // namespace
}  // namespace gqmm::cpu
