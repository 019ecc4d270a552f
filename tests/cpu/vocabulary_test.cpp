// Every operation of every instruction set gives what it gives in plain C++ (simd/scalar.hpp): the same bits, but for the sign
// and payload of a NaN. Sets that this machine lacks are skipped.
#include "vocabularies.hpp"
#include "vocabulary_operations.hpp"

#include "conformance/support/guarded_memory.hpp"
#include "conformance/support/random.hpp"

#include <gqmm/system.hpp>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace gqmm::cpu {
namespace {

using conformance::Edge;
using conformance::guarded_memory;
using conformance::Random;

/// Floats, halves, bytes and integers at the ends of their ranges.
constexpr std::uint32_t edges[] = {
    0x00000000, 0x80000000,                                      // ±0, the smallest integer
    0x00000001, 0x80000001, 0x007fffff, 0x807fffff, 0x00400000,  // subnormals
    0x00800000, 0x80800000, 0x7f7fffff, 0xff7fffff,              // the smallest and the largest normal floats
    0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001, 0xffbfffff, 0x7fffffff, 0xffffffff,  // infinities, NaN, −1
    0x3f800000, 0xbf800000, 0x3f800001, 0x34000000, 0x33800000,  // ±1, 1 + 2^−23, 2^−23, 2^−24
    0x3f000000, 0x3fc00000, 0x40200000, 0xc0200000, 0x4b000001, 0x4b400000, 0x4effffff, 0xceffffff,  // ties, magic, near ±2^31
    0x477fe000, 0x477fefff, 0x477ff000, 0x38800000, 0x387fc000, 0x33000000, 0x33000001, 0x3f801000,
    0x3f803000,                                                                                      // half: ends, ties
    0x00007c00, 0x0000fc00, 0x00007e00, 0x00007c01, 0x000003ff, 0x00000400, 0x00007bff, 0x00008001,  // halves
    0x7f7f7f7f, 0x80808080, 0x81818181, 0x01010101, 0x00ff00ff, 0x0f0f0f0f, 0x000000ff, 0x7ffffffe,
    0x80007fff,  // bytes
};

/// `word`, or where that is outside the domain, another word within it.
std::uint32_t fitted(std::uint32_t word, Domain domain) {
  switch (domain) {
    case Domain::any: return word;
    case Domain::below_2_to_31: return (word & 0x7fffffffU) < 0x4f000000U ? word : word & 0xceffffffU;
    case Domain::not_positive: return word | 0x80000000U;
    case Domain::nibbles: return word & 0x0f0f0f0fU;
    case Domain::bytes_to_127: return word & 0x7f7f7f7fU;
    case Domain::bytes_to_128: break;
  }
  const std::uint32_t top = word & 0x80808080U;
  return top | (word & 0x7f7f7f7fU & ~(top - (top >> 7)));  // 128 … 255 become 128
}

bool is_nan(std::uint32_t word) { return (word & 0x7fffffffU) > 0x7f800000U; }
bool is_nan_half(std::uint32_t word) { return word <= 0xffffU && (word & 0x7fffU) > 0x7c00U; }

bool keeps(Promise promise, std::uint32_t expected, std::uint32_t actual) {
  return expected == actual || (promise == Promise::same_float && is_nan(expected) && is_nan(actual)) ||
         (promise == Promise::same_half && is_nan_half(expected) && is_nan_half(actual));
}

/// The i-th lane's arguments: all combinations of the edges; of one argument all words of 16 bits, low and high; then random
/// words.
class Arguments {
 public:
  explicit Arguments(const Operation& operation)
      : operation_(operation), combinations_(1), halves_(operation.arguments == 1 ? 0x20000 : 0) {
    for (int i = 0; i < operation.arguments; ++i) {
      combinations_ *= std::size(edges);
    }
  }
  [[nodiscard]] std::size_t count() const { return combinations_ + halves_ + 0x8000; }

  void of_lane(std::size_t i, std::uint32_t (&words)[3]) {
    std::size_t combination = i;
    for (int argument = 0; argument < 3; ++argument) {
      std::uint32_t word = 0;
      if (i < combinations_) {
        word = edges[combination % std::size(edges)];
        combination /= std::size(edges);
      } else if (i < combinations_ + halves_) {
        const auto half = static_cast<std::uint32_t>(i - combinations_);
        word = half < 0x10000 ? half : half << 16;
      } else {
        word = static_cast<std::uint32_t>(random_.bits());
      }
      words[argument] = fitted(word, operation_.domain[argument]);
    }
  }

 private:
  const Operation& operation_;
  std::size_t combinations_;
  std::size_t halves_;
  Random random_{1};
};

std::string text_of(const Lanes* in, int arguments, int lane) {
  std::string text;
  for (int i = 0; i < arguments; ++i) {
    text += fmt::format("{}{:08x}", i == 0 ? "" : ", ", in[i].lane[lane]);
  }
  return text;
}

class Vocabulary : public testing::TestWithParam<NamedVocabulary> {
 protected:
  void SetUp() override {
    for (const InstructionSet& set : instruction_sets()) {
      if (set.name == GetParam().instruction_set && !set.supported) {
        GTEST_SKIP() << "this machine lacks " << set.description;
      }
    }
  }
  static const VocabularyOperations& set() { return GetParam().operations(); }
  static const VocabularyOperations& scalar() { return scalar_vocabulary(); }
};

TEST_P(Vocabulary, EveryFunctionOfVectorsAgreesWithPlainCpp) {
  ASSERT_EQ(set().count, scalar().count);
  for (int o = 0; o < set().count; ++o) {
    const Operation& operation = set().operations[o];
    Arguments arguments(operation);
    for (std::size_t first = 0; first < arguments.count(); first += lanes) {
      Lanes in[3];
      for (int l = 0; l < lanes; ++l) {
        std::uint32_t words[3];
        arguments.of_lane(first + static_cast<std::size_t>(l), words);
        for (int i = 0; i < 3; ++i) {
          in[i].lane[l] = words[i];
        }
      }
      Lanes expected[max_results] = {};
      Lanes actual[max_results] = {};
      scalar().operations[o].run(in, expected);
      operation.run(in, actual);
      for (int result = 0; result < operation.results; ++result) {
        for (int l = 0; l < lanes; ++l) {
          ASSERT_TRUE(keeps(operation.promise, expected[result].lane[l], actual[result].lane[l]))
              << fmt::format("{}, result {}, lane {}: {:08x} instead of {:08x} of {}", operation.name, result, l,
                             actual[result].lane[l], expected[result].lane[l], text_of(in, operation.arguments, l));
        }
      }
    }
  }
}

TEST_P(Vocabulary, BitsArePickedFromAnyPlace) {
  if (set().pick_bits == nullptr) {
    GTEST_SKIP() << "it has no such operation";
  }
  Random random(2);
  for (int repetition = 0; repetition < 1000; ++repetition) {
    Lanes in;
    std::generate(std::begin(in.lane), std::end(in.lane), [&] { return static_cast<std::uint32_t>(random.bits()); });
    Lanes out[picked_bits_count];
    set().pick_bits(in, out);
    for (int i = 0; i < picked_bits_count; ++i) {
      for (int bit = 0; bit < 32; ++bit) {
        const int from = picked_bits[i].first + bit / 8 * picked_bits[i].pitch + bit % 8;
        for (int l = 0; from >= 0 && from < 32 && l < lanes; ++l) {
          ASSERT_EQ(out[i].lane[l] >> bit & 1U, in.lane[l] >> from & 1U)
              << "first " << picked_bits[i].first << ", pitch " << picked_bits[i].pitch << ", lane " << l << ", bit " << bit;
        }
      }
    }
  }
}

/// Memory of random bytes, so that a read beyond its end is a crash.
std::shared_ptr<std::byte> random_memory(std::size_t bytes, std::uint64_t seed) {
  auto memory = guarded_memory(bytes, Edge::upper);
  Random random(seed);
  std::generate_n(memory.get(), bytes, [&] { return static_cast<std::byte>(random.bits()); });
  return memory;
}

bool same(const Lanes& a, const Lanes& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

TEST_P(Vocabulary, LoadsReadNoMoreThanNElementsAndFillUpWithZeros) {
  struct Load {
    Lanes (*VocabularyOperations::*run)(const std::byte*, int);
    int size;
  };
  for (const auto& [run, size] : {Load{&VocabularyOperations::load_words, 4}, Load{&VocabularyOperations::load_u16, 2},
                                  Load{&VocabularyOperations::load_u8, 1}}) {
    for (int n = 0; n <= lanes + 1; ++n) {
      const auto bytes = static_cast<std::size_t>(std::min<int>(n, lanes)) * static_cast<std::size_t>(size);
      const auto memory = random_memory(bytes, 3);
      Lanes expected = {};
      for (std::size_t i = 0; i < bytes; ++i) {
        expected.lane[i / static_cast<std::size_t>(size)] |= static_cast<std::uint32_t>(memory.get()[i])
                                                             << (8 * (i % static_cast<std::size_t>(size)));
      }
      EXPECT_TRUE(same((set().*run)(memory.get(), n), expected)) << n << " elements of " << size << " bytes";
    }
  }
}

TEST_P(Vocabulary, StoresWriteTheFirstNElementsAndNothingElse) {
  Lanes words;
  Random random(4);
  std::generate(std::begin(words.lane), std::end(words.lane), [&] { return static_cast<std::uint32_t>(random.bits()); });
  for (const int size : {2, 4}) {
    for (int n = 0; n <= lanes + 1; ++n) {
      const auto bytes = static_cast<std::size_t>(std::min<int>(n, lanes)) * static_cast<std::size_t>(size);
      // Behind the elements lie bytes that stay, and for n = 0 and 16 an inaccessible page.
      const std::size_t behind = n > 0 && n < lanes ? 8 : 0;
      const auto memory = guarded_memory(bytes + behind, Edge::upper);
      std::fill_n(memory.get(), bytes + behind, std::byte{0xee});
      (size == 2 ? set().store_u16 : set().store_words)(memory.get(), words, n);
      for (std::size_t i = 0; i < bytes + behind; ++i) {
        const auto at = static_cast<std::size_t>(size);
        const auto expected = i < bytes ? static_cast<std::byte>(words.lane[i / at] >> (8 * (i % at))) : std::byte{0xee};
        ASSERT_EQ(memory.get()[i], expected) << n << " elements of " << size << " bytes, byte " << i;
      }
    }
  }
}

TEST_P(Vocabulary, FloatsAreLoadedAndStoredBitForBitAtAnyAddress) {
  for (std::size_t first = 0; first + lanes <= std::size(edges); ++first) {
    for (std::size_t offset = 0; offset < 64; offset += 4) {
      alignas(64) std::byte memory[128] = {};
      std::memcpy(memory + offset, edges + first, sizeof(Lanes));
      const Lanes loaded = set().load(reinterpret_cast<const float*>(memory + offset));
      EXPECT_EQ(std::memcmp(&loaded, edges + first, sizeof loaded), 0);
      std::memset(memory + offset, 0, sizeof(Lanes));
      set().store(reinterpret_cast<float*>(memory + offset), loaded);
      EXPECT_EQ(std::memcmp(memory + offset, edges + first, sizeof loaded), 0);
    }
  }
}

TEST_P(Vocabulary, RowsAreTransposedWhateverTheirDistance) {
  for (const std::int64_t stride : {16, 17, 20, 64, 100, 4096}) {
    const auto memory = random_memory(static_cast<std::size_t>(15 * stride + 16), 5);
    Lanes words[4];
    set().load_transposed(memory.get(), stride, words);
    for (int j = 0; j < 4; ++j) {
      for (int n = 0; n < lanes; ++n) {
        std::uint32_t expected = 0;
        std::memcpy(&expected, memory.get() + n * stride + 4 * j, sizeof expected);
        EXPECT_EQ(words[j].lane[n], expected) << "stride " << stride << ", row " << n << ", word " << j;
      }
    }
  }
}

TEST_P(Vocabulary, CodesOfEveryWidthAreUnpackedAndNothingBeyondIsRead) {
  for (int bits = 1; bits <= 8; ++bits) {
    // Every value of a byte at every place: 256 streams, each byte's place shifts its value.
    for (unsigned value = 0; value < 256; ++value) {
      const auto memory = guarded_memory(2 * static_cast<std::size_t>(bits), Edge::upper);
      for (int i = 0; i < 2 * bits; ++i) {
        memory.get()[i] = static_cast<std::byte>(value + 37U * static_cast<unsigned>(i));
      }
      const Lanes codes = set().unpack_codes[bits - 1](memory.get());
      for (int l = 0; l < lanes; ++l) {
        std::uint32_t expected = 0;
        for (int bit = 0; bit < bits; ++bit) {
          const int at = l * bits + bit;
          expected |= (static_cast<unsigned>(memory.get()[at / 8]) >> (at % 8) & 1U) << bit;
        }
        ASSERT_EQ(codes.lane[l], expected) << bits << " bits, value " << value << ", code " << l;
      }
    }
  }
}

TEST_P(Vocabulary, PrefetchesOfAnyAddressDoNothing) {
  const auto memory = guarded_memory(1, Edge::upper);
  set().prefetch(memory.get());
  set().prefetch(memory.get() + 64);  // an inaccessible page
  set().prefetch(nullptr);
}

// The numerics contract of a group's end (docs/reference/numerics.md), each step in double and rounded once. Differences of
// floats that are multiples of one unit are exact, and so are products of floats, in double.
TEST_P(Vocabulary, AGroupsSumsAreFlushedInTheOrderOfTheContract) {
  Random random(6);
  const auto random_float = [&](double scale) { return static_cast<float>(random.normal() * scale); };
  for (int repetition = 0; repetition < 2000; ++repetition) {
    const int slices = 1 + repetition % max_slices;
    const bool biased = random.chance(0.5);
    const int exponent = static_cast<int>(random.integer(-60, 40));
    float x_scales[2 * max_slices] = {};
    Lanes sums[max_slices];
    double exact[max_slices][lanes];
    for (int p = 0; p < slices; ++p) {
      const double unit = std::ldexp(1.0, exponent + 8 * (slices - 1 - p));
      const auto offset = static_cast<std::int32_t>(biased ? 0 : random.integer(-100000, 100000));
      x_scales[p] = static_cast<float>(0x1.8p23 * unit);
      if (!biased) {
        x_scales[slices + p] = static_cast<float>((0x1.8p23 + offset) * unit);
      }
      for (int l = 0; l < lanes; ++l) {
        const auto sum = static_cast<std::int32_t>(random.integer(-(1 << 22) + 1, (1 << 22) - 1));
        sums[p].lane[l] = std::bit_cast<std::uint32_t>(x_scales[p]) + static_cast<std::uint32_t>(sum);
        exact[p][l] = (sum - offset) * unit;
      }
    }
    if (biased) {
      x_scales[slices] = random_float(std::ldexp(1000.0, exponent));
    }
    Lanes scale;
    Lanes bias;
    Lanes y;
    for (int l = 0; l < lanes; ++l) {
      scale.lane[l] = std::bit_cast<std::uint32_t>(random_float(0.01));
      bias.lane[l] = std::bit_cast<std::uint32_t>(random_float(0.1));
      y.lane[l] = std::bit_cast<std::uint32_t>(random_float(std::ldexp(100.0, exponent)));
    }
    const Lanes actual = set().flush_group[slices - 1][biased ? 1 : 0](sums, x_scales, scale, bias, y);
    for (int l = 0; l < lanes; ++l) {
      auto total = static_cast<float>(exact[slices - 1][l]);
      for (int p = slices - 2; p >= 0; --p) {
        total = static_cast<float>(static_cast<double>(static_cast<float>(exact[p][l])) + total);
      }
      auto expected = std::bit_cast<float>(y.lane[l]);
      if (biased) {
        expected = std::fma(std::bit_cast<float>(bias.lane[l]), x_scales[slices], expected);
      }
      expected = std::fma(total, std::bit_cast<float>(scale.lane[l]), expected);
      ASSERT_EQ(actual.lane[l], std::bit_cast<std::uint32_t>(expected))
          << slices << " slices, " << (biased ? "biased" : "not biased") << ", lane " << l << ": "
          << std::bit_cast<float>(actual.lane[l]) << " instead of " << expected;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, Vocabulary, testing::ValuesIn(vocabularies), [](const auto& info) {
  std::string name = info.param.instruction_set;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace gqmm::cpu
