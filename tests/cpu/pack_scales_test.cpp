// pack_scales alone: every stored scale and bias becomes the float that it stands for, times its factors, wherever it lies.
#include "conformance/support/check.hpp"
#include "conformance/support/guarded_memory.hpp"
#include "conformance/support/random.hpp"
#include "cpu/dispatch.hpp"
#include "formats/float_types.hpp"
#include "formats/registry.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

namespace gqmm::cpu {
namespace {

using conformance::Edge;
using conformance::guarded_memory;
using conformance::Random;

constexpr float poison = -12345.0F;

/// Scales, or biases, of a strip, with an inaccessible page behind the last one.
struct Stored {
  Stored(const Format& format, Dtype type, bool in_lanes, int row_count, std::int64_t group_count, Random& random)
      : encoding(format.scale_encoding),
        dtype(type),
        packed(in_lanes),
        rows(row_count),
        element(encoding == ScaleEncoding::floating ? static_cast<std::int64_t>(size_of(dtype)) : 1),
        stride(group_count * element + (packed ? 0 : 3 * element)) {
    const std::int64_t bytes = packed ? group_count * lanes * element : (rows - 1) * stride + group_count * element;
    memory = guarded_memory(static_cast<std::size_t>(bytes), Edge::upper);
    for (std::int64_t i = 0; i < bytes; i += element) {
      if (encoding == ScaleEncoding::floating) {
        store_float(memory.get() + i, dtype, random_value(random));
      } else {
        memory.get()[i] = static_cast<std::byte>(random.bits());
      }
    }
  }
  static float random_value(Random& random) {
    constexpr float special[] = {0.0F,
                                 -0.0F,
                                 0x1p-140F,
                                 -0x1p-24F,
                                 0x1.fffffep46F,
                                 0x1p47F,
                                 -0x1p47F,
                                 0x1p100F,
                                 std::numeric_limits<float>::infinity(),
                                 std::numeric_limits<float>::quiet_NaN()};
    return random.chance(0.02) ? random.one_of(special) : static_cast<float>(random.normal());
  }
  /// Rows that do not exist repeat the last one.
  [[nodiscard]] float value(int lane, std::int64_t group) const {
    const std::int64_t at = packed ? (group * lanes + lane) * element : std::min(lane, rows - 1) * stride + group * element;
    return load_scale(memory.get() + at, encoding, dtype);
  }

  ScaleEncoding encoding;
  Dtype dtype;
  bool packed;
  int rows;
  std::int64_t element;
  std::int64_t stride;
  std::shared_ptr<std::byte> memory;
};

ScaleType type_of(const Stored& stored) {
  switch (stored.encoding) {
    case ScaleEncoding::e8m0: return ScaleType::e8m0;
    case ScaleEncoding::e4m3: return ScaleType::e4m3;
    case ScaleEncoding::floating: break;
  }
  return scale_type_of(stored.dtype);
}

bool is_ordinary(float value) { return std::abs(value) < 0x1p47F; }
bool same(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

struct Setting {
  const Format* format;
  Dtype scales;
  Dtype biases;
  bool packed;
  int rows;
  std::int64_t groups;
};

void expect_packed(const KernelTable& table, const Setting& setting, Random& random) {
  const Format& format = *setting.format;
  const Stored scales(format, setting.scales, setting.packed, setting.rows, setting.groups, random);
  const Stored biases(format, setting.biases, setting.packed, setting.rows, setting.groups, random);
  WeightStrip strip;
  strip.scales = scales.memory.get();
  strip.scale_stride = scales.stride;
  strip.scale_type = type_of(scales);
  if (format.has_biases) {
    strip.biases = biases.memory.get();
    strip.bias_stride = biases.stride;
    strip.bias_type = type_of(biases);
  }
  strip.rows = setting.rows;
  strip.groups = setting.groups;
  strip.packed = setting.packed;
  strip.scale_factor = format.has_biases ? 1.0F : 0.37F;
  const float factor = strip.scale_factor * format.integer.unit;
  const std::int64_t first = random.integer(0, setting.groups - 1);
  const std::int64_t count = random.integer(1, setting.groups - first);
  std::vector<float> out(static_cast<std::size_t>(count * 2 * lanes + 7), poison);
  const std::uint32_t exceptional = table.formats[index_of(format)].pack_scales(strip, first, count, out.data());
  std::uint32_t expected_exceptional = 0;
  for (std::int64_t g = 0; g < count; ++g) {
    for (int l = 0; l < lanes; ++l) {
      const float scale = scales.value(l, first + g) * factor;
      const float bias = format.has_biases ? biases.value(l, first + g) : poison;
      const auto at = static_cast<std::size_t>(g * 2 * lanes + l);
      ASSERT_TRUE(same(out[at], scale)) << "scale of group " << first + g << ", lane " << l << ": " << out[at] << " instead of "
                                        << scale;
      ASSERT_TRUE(same(out[at + lanes], bias))
          << "bias of group " << first + g << ", lane " << l << ": " << out[at + lanes] << " instead of " << bias;
      expected_exceptional |= (is_ordinary(scale) && is_ordinary(bias) ? 0U : 1U) << l;
    }
  }
  EXPECT_EQ(exceptional, expected_exceptional) << "groups " << first << " to " << first + count;
  EXPECT_TRUE(std::all_of(out.end() - 7, out.end(), [](float value) { return value == poison; }));
}

TEST(PackScales, EveryScaleAndBiasHasItsValueAndLanesThatAreNotOrdinaryAreNamed) {
  const conformance::RestoreInstructionSet restore;
  for (const std::string& set : conformance::supported_instruction_sets()) {
    set_instruction_set(set);
    Random random(8);
    for (const Format& format : formats()) {
      if (!format.integer.exists) {
        continue;
      }
      const bool floating = format.scale_encoding == ScaleEncoding::floating;
      const std::vector<Dtype> types =
          floating ? std::vector{Dtype::float32, Dtype::float16, Dtype::bfloat16} : std::vector{Dtype::float32};
      for (const Dtype scales : types) {
        for (const Dtype biases : types) {
          for (const bool packed : {false, true}) {
            for (const int rows : packed ? std::vector{16} : std::vector{1, 2, 15, 16}) {
              for (const std::int64_t groups : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 40}) {
                SCOPED_TRACE(fmt::format("{}, {}, scales {}, biases {}, packed {}, {} rows, {} groups", set, describe(format),
                                         name_of(scales), name_of(biases), packed, rows, groups));
                expect_packed(active_kernels(), {&format, scales, biases, packed, rows, groups}, random);
                ASSERT_FALSE(testing::Test::HasFatalFailure());
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace gqmm::cpu
