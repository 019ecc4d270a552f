// From the words of 16 rows to bytes that dot products take.
//
// Four words of each of 16 rows, transposed, are vectors w[j] whose lane n is word j of row n. A unit is the fewest codes that
// fill whole words and lie in one group (32, or 16 for groups of 16): `words` vectors. Codes then become
//
//     nibbles   lane n of line i holds codes 8i … 8i+7 of the unit, 4 bits each    (formats of at most 4 bits)
//     bytes     lane n of line i holds 4 codes, 8 bits each                        (the others, and those with a table)
//
// A step is one dot product: 4 k. Nibbles yield two steps, first the even k of 8 (low nibbles), then the odd; x is sliced in the
// same order ("even_odd").
#pragma once

#include "cpu/kernels/row_blocks.hpp"
#include "formats/format.hpp"

#include <algorithm>
#include <numeric>

namespace gqmm::cpu {
namespace {

/// mask, once every `pitch` bits.
constexpr std::int32_t repeat(std::uint64_t mask, int pitch) {
  std::uint64_t word = 0;
  for (int at = 0; at < 32; at += pitch) {
    word |= mask << at;
  }
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(word));
}

/// Spreads `count` codes of `from` bits, contiguous at the bottom of each word, to `to` bits each: the upper half of the codes
/// moves up to where it belongs, then both halves, `pitch` bits apart, are treated alike.
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

/// The u8 codes of step `step` from panel lines held in `line` (a function of the line's number within the unit).
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
struct Unit {
  using i32 = typename V::i32;
  // On the float path a unit is what registers hold beside 16 sums, once more for the next unit.
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

  /// Each step is picked from the words at once; else it is cut from a panel line.
  static constexpr bool picks_bits = V::picks_bits && !F::integer.has_table && !panel_is_raw;
  static constexpr int sources = picks_bits ? words : lines;

  /// in[0 … words) of a unit → its panel lines.
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
  /// in[0 … words) of a unit → out[0 … sources), from which step() takes its codes.
  static void to_sources(const i32* in, i32* out) {
    if constexpr (picks_bits) {
      for (int i = 0; i < words; ++i) {
        out[i] = in[i];
      }
    } else {
      to_lines(in, out);
    }
  }
  /// The u8 codes of step `number`.
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

  /// The codes of a line that crosses from one word to the next, at the bottom of a word.
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

  /// Codes first, first + stride, … of a line, four of them, each in a byte from bit `up` on.
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

/// The fewest words that are whole units and whole loads of four.
template <class V, class F>
inline constexpr int block_words = std::lcm(Unit<V, F>::words, 4);

/// Walks through the units in words [first, end) of a strip, in order. Lane n is row n; rows that do not exist repeat the last.
template <class V, class F>
class Units {
 public:
  using i32 = typename V::i32;
  using Copies = RowCopies<V, block_words<V, F>>;

  Units(const WeightStrip& strip, std::int64_t first, std::int64_t end, Copies& copies)
      : packed_(strip.packed ? strip.codes + first * 64 : nullptr), at_(first), end_(end), blocks_(strip, first, end, copies) {}

  /// Calls each(U::words vectors) for every unit up to word `until`, which ends a block or the walk.
  template <class Each>
  [[gnu::always_inline]] void walk(std::int64_t until, Each each) {
    if (packed_ != nullptr) {
      walk_packed(until, each);
      return;
    }
    if (ahead && !begun_) {
      blocks_.next(block_);
      begun_ = true;
    }
    for (; at_ < until; at_ += size) {
      i32 next[size];
      if constexpr (!ahead) {
        blocks_.next(block_);
      } else if (at_ + size < end_) {
        blocks_.next(next);
      } else {
        std::copy_n(block_, size, next);
      }
      unrolled<size / words>([&]<int unit>() __attribute__((always_inline)) {
        if (at_ + unit * words < end_) {
          each(block_ + unit * words);
        }
      });
      if constexpr (ahead) {
        std::copy_n(next, size, block_);
      }
    }
  }

 private:
  static constexpr int words = Unit<V, F>::words;
  static constexpr int size = block_words<V, F>;
  /// Load the next block before the units of this one are used: the shuffles of one and the arithmetic of the other then run side
  /// by side. Takes registers for two blocks.
  static constexpr bool ahead = size <= V::words_ahead;

  template <class Each>
  [[gnu::always_inline]] void walk_packed(std::int64_t until, Each each) {
    for (; at_ < until; at_ += words) {
      i32 unit[words];
      for (int j = 0; j < words; ++j) {
        unit[j] = V::load_words(packed_ + j * 64, 16);
      }
      packed_ += words * 64;
      each(unit);
    }
  }

  const std::byte* packed_;
  std::int64_t at_;
  std::int64_t end_;
  RowBlocks<V, size> blocks_;
  bool begun_ = false;
  i32 block_[size];
};

template <class V, class F>
void pack_strip(const WeightStrip& strip, std::int64_t k0, std::int64_t count, std::byte* panel) {
  using U = Unit<V, F>;
  using i32 = typename V::i32;
  const auto pack_unit = [&panel](const i32* words) {
    i32 line[U::lines];
    U::to_lines(words, line);
    for (int i = 0; i < U::lines; ++i) {
      V::store_words(panel, line[i], 16);
      panel += 64;
    }
  };
  const std::int64_t end = (k0 + count) * F::bits / 32;
  typename Units<V, F>::Copies copies;
  Units<V, F>(strip, k0 * F::bits / 32, end, copies).walk(end, pack_unit);
}

}  // namespace
}  // namespace gqmm::cpu
