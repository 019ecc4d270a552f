// From the words of 16 rows to bytes that dot products take.
//
// Loading a line of each of 16 rows and transposing gives vectors w[j] whose lane n is word j of row n. A unit is the fewest
// codes that fill whole words and lie in one group (32, or 16 for groups of 16): `words` vectors. Codes then become
//
//     nibbles   lane n of line i holds codes 8i … 8i+7 of the unit, 4 bits each    (formats of at most 4 bits)
//     bytes     lane n of line i holds 4 codes, 8 bits each                        (the others, and those with a table)
//
// A step is one dot product: 4 k. Nibbles yield two steps, first the even k of 8 (low nibbles), then the odd; x is sliced in the
// same order ("even_odd").
#pragma once

#include "cpu/kernels/kernel_table.hpp"
#include "formats/format.hpp"

#include <utility>

namespace gqmm::cpu {
namespace {

/// function.operator()<0>() … <n − 1>().
template <int n, class Function>
[[gnu::always_inline]] inline void unrolled(Function function) {
  [&]<int... i>(std::integer_sequence<int, i...>)
      __attribute__((always_inline)) { (function.template operator()<i>(), ...); }(std::make_integer_sequence<int, n>{});
}

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
  static constexpr int codes = F::group_sizes[0] < 32 ? F::group_sizes[0] : 32;
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

/// The most words, up to 16, that are whole units: what one transpose yields.
template <class V, class F>
inline constexpr int block_words = 16 / Unit<V, F>::words * Unit<V, F>::words;
/// Narrower codes have too many units to a block for unrolling to pay.
template <class V, class F>
inline constexpr int max_unrolled_units = Unit<V, F>::picks_bits ? 8 : 5;

/// Calls each(U::words vectors) for every unit in words [first, end) of a strip, in order. Lane n is row n; rows that do not
/// exist repeat the last one. between() is called between the loads, for about every second word: there is room for a prefetch.
template <class V, class F, class Each, class Between>
[[gnu::always_inline]] inline void for_each_unit(const WeightStrip& strip, std::int64_t first, std::int64_t end, Each each,
                                                 Between between) {
  using U = Unit<V, F>;
  using i32 = typename V::i32;
  constexpr int block_size = block_words<V, F>;
  constexpr int units = block_size / U::words;
  for (std::int64_t word = first; word < end; word += block_size) {
    const int count = end - word < block_size ? static_cast<int>(end - word) : block_size;
    const std::byte* lines = strip.codes + word * 64;
    alignas(64) std::byte transposed[16 * 64];
    if (!strip.packed) {
      const std::byte* row = strip.codes + word * 4;
      i32 block[16];
      if (strip.rows == lanes && strip.words - word >= 16 && count == block_size) {
#pragma GCC unroll 16
        for (int n = 0; n < lanes; ++n) {
          block[n] = V::load_words(row + n * strip.row_stride, 16);
          if (n % 2 == 0 && n < block_size) {
            between();
          }
        }
        V::transpose(block);
        if constexpr (units <= max_unrolled_units<V, F>) {  // the transposed words stay in registers
#pragma GCC unroll 8
          for (int unit = 0; unit < units; ++unit) {
            each(block + unit * U::words);
          }
          continue;
        }
      } else {
        for (int n = 0; n < lanes; ++n) {
          block[n] = V::load_words(row + (n < strip.rows ? n : strip.rows - 1) * strip.row_stride, count);
        }
        V::transpose(block);
      }
      for (int j = 0; j < 16; ++j) {
        V::store_words(transposed + j * 64, block[j], 16);
      }
      lines = transposed;
    }
    for (int at = 0; at < count; at += U::words) {
      i32 unit[U::words];
      for (int j = 0; j < U::words; ++j) {
        unit[j] = V::load_words(lines + (at + j) * 64, 16);
        if (j % 2 == 0) {
          between();
        }
      }
      each(unit);
    }
  }
}

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
  for_each_unit<V, F>(strip, k0 * F::bits / 32, (k0 + count) * F::bits / 32, pack_unit, [] {});
}

}  // namespace
}  // namespace gqmm::cpu
