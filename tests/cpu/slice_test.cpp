// slice_row alone, beside its definition (kernels/slice.hpp): the integers, the scales and the groups that fixed point cannot
// serve.
#include "conformance/support/check.hpp"
#include "conformance/support/guarded_memory.hpp"
#include "conformance/support/random.hpp"
#include "cpu/dispatch.hpp"
#include "formats/float_types.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

namespace gqmm::cpu {
namespace {

using conformance::Edge;
using conformance::guarded_memory;
using conformance::Random;

using Group = std::vector<double>;

/// Groups of one kind each; what they hold is rounded to the type of x.
std::vector<Group> groups_of_every_kind(int group_size, Random& random) {
  std::vector<Group> groups;
  const auto add = [&](const std::function<double(int)>& value) {
    Group group;
    for (int k = 0; k < group_size; ++k) {
      group.push_back(value(k));
    }
    random.shuffle(std::span(group));
    groups.push_back(std::move(group));
  };
  const auto normal = [&](int) { return random.normal(); };
  const auto with = [&](int count, double value) {
    return [&random, count, value](int k) { return k < count ? value : random.normal(); };
  };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  add(normal);
  add([](int) { return 0.0; });
  add([](int) { return -0.0; });
  add(with(1, std::nan("")));
  add(with(1, infinity));
  add(with(3, -infinity));
  for (const int outliers : {1, 2, 3, 5, 16}) {
    add(with(outliers, 30000.0));
    add([&](int k) { return k < outliers ? -300.0 : 0.0; });
  }
  for (const double beside_one : {0x1p0, 0x1.fffffep-1, 0x1.ffcp-1, 0x1.fep-1, 0x1.fcp-1, 0x1.fdp-1, -0x1.fffffep-1}) {
    add([&](int k) { return k % 2 == 0 ? beside_one : 0.4; });
  }
  add([](int k) { return 0.5 + k; });  // ties of a small range
  for (const int exponent : {-140, -101, -100, -99, 54, 55, 56, 100}) {
    add([&](int) { return std::ldexp(random.uniform(0.6, 0.9), exponent); });
  }
  return groups;
}

struct Row {
  Dtype dtype;
  int group_size;
  std::int64_t K;
  std::shared_ptr<std::byte> memory;

  Row(Dtype type, int size, const std::vector<Group>& groups)
      : dtype(type), group_size(size), K(static_cast<std::int64_t>(groups.size()) * size) {
    const std::size_t element = size_of(dtype);
    memory = guarded_memory(static_cast<std::size_t>(K) * element, Edge::upper);
    std::byte* at = memory.get();
    for (const Group& group : groups) {
      for (const double value : group) {
        store_float(at, dtype, static_cast<float>(value));
        at += element;
      }
    }
  }
  [[nodiscard]] double operator[](std::int64_t k) const {
    return load_float(memory.get() + static_cast<std::size_t>(k) * size_of(dtype), dtype);
  }
};

/// What slicing makes of a group.
struct Sliced {
  bool exceptional = false;
  int e = 0;
  std::vector<std::int64_t> X;
};

Sliced expected_of(const Row& row, std::int64_t group, int slices) {
  const int bits = 8 * slices - 1;
  // The largest sum of slices with bytes of at most 127.
  std::int64_t largest = 0;
  for (int p = 0; p < slices; ++p) {
    largest = largest * 256 + 127;
  }
  std::vector<double> x;
  double top = 0;
  bool finite = true;
  for (std::int64_t k = group * row.group_size; k < (group + 1) * row.group_size; ++k) {
    x.push_back(row[k]);
    top = std::max(top, std::abs(x.back()));
    finite = finite && std::isfinite(x.back());
  }
  Sliced result = {.X = std::vector<std::int64_t>(x.size())};
  if (finite && top == 0) {
    return result;
  }
  // top < 2^e. Exponents of subnormal floats are those of the smallest normal one.
  const int e = finite ? std::max(std::ilogb(top), -127) + 1 : 0;
  std::int64_t nonzero = 0;
  std::int64_t near_top = 0;
  for (const double value : x) {
    nonzero += value != 0 ? 1 : 0;
    near_top += std::abs(value) >= std::ldexp(1.0, e - 6) ? 1 : 0;
  }
  result.exceptional = !finite || e > 55 || e < -100 || near_top <= 2 || (near_top < nonzero && near_top * 8 <= nonzero);
  if (result.exceptional) {
    return result;
  }
  result.e = e;
  if (std::nearbyint(std::ldexp(top, bits - e)) > static_cast<double>(largest)) {
    ++result.e;
  }
  for (std::size_t k = 0; k < x.size(); ++k) {
    result.X[k] = static_cast<std::int64_t>(std::nearbyint(std::ldexp(x[k], bits - result.e)));
  }
  return result;
}

struct Setting {
  int slices;
  bool even_odd;
  bool biased;
};

/// The k within 16 that byte `byte` of step `step` holds.
int k_of(const Setting& setting, int step, int byte) {
  return setting.even_odd ? step / 2 * 8 + byte * 2 + step % 2 : step * 4 + byte;
}

void expect_group(const Setting& setting, const Row& row, std::int64_t group, const SliceArguments& out) {
  const auto& [slices, even_odd, biased] = setting;
  const Sliced expected = expected_of(row, group, slices);
  ASSERT_EQ(out.exceptional[group] != 0, expected.exceptional);
  const auto* bytes = reinterpret_cast<const std::int8_t*>(out.words + group * row.group_size / 4 * slices);
  std::int64_t sum = 0;
  std::vector<std::int64_t> sums(static_cast<std::size_t>(slices));
  for (int k0 = 0; k0 < row.group_size; k0 += 16) {
    for (int step = 0; step < 4; ++step) {
      for (int byte = 0; byte < 4; ++byte) {
        const int k = k0 + k_of(setting, step, byte);
        std::int64_t X = 0;
        for (int p = 0; p < slices; ++p) {
          const std::int8_t a = bytes[((k0 / 4 + step) * slices + p) * 4 + byte];
          X = X * 256 + a;
          sums[static_cast<std::size_t>(p)] += a;
        }
        ASSERT_EQ(X, expected.X[static_cast<std::size_t>(k)])
            << "k " << k << " of the group, x " << row[group * row.group_size + k];
        sum += X;
      }
    }
  }
  const auto unit = [&](int p) { return std::ldexp(1.0, expected.e - (8 * slices - 1) + 8 * (slices - 1 - p)); };
  const float* scales = out.scales + group * x_scales_of_group(slices, biased);
  for (int p = 0; p < slices; ++p) {
    ASSERT_EQ(scales[p], static_cast<float>(0x1.8p23 * unit(p))) << "magic of slice " << p;
    if (!biased) {
      const auto zero = 0x1.8p23 + static_cast<double>(out.offset * sums[static_cast<std::size_t>(p)]);
      ASSERT_EQ(scales[slices + p], static_cast<float>(zero * unit(p))) << "zero of slice " << p;
    }
  }
  if (biased) {
    ASSERT_EQ(scales[slices], static_cast<float>(static_cast<double>(sum) * unit(slices - 1))) << "sum of x";
  }
}

void expect_sliced(const KernelTable& table, const Setting& setting, const Row& row) {
  const std::int64_t groups = row.K / row.group_size;
  const std::int64_t scale_count = groups * x_scales_of_group(setting.slices, setting.biased);
  const auto words = guarded_memory(static_cast<std::size_t>(row.K * setting.slices), Edge::upper);
  const auto scales = guarded_memory(static_cast<std::size_t>(scale_count) * sizeof(float), Edge::upper);
  const auto exceptional = guarded_memory(static_cast<std::size_t>(groups), Edge::upper);
  const SliceArguments arguments = {.x = row.memory.get(),
                                    .dtype = row.dtype,
                                    .K = row.K,
                                    .group_size = row.group_size,
                                    .biased = setting.biased,
                                    .offset = setting.biased ? 0 : 12,
                                    .words = reinterpret_cast<std::int32_t*>(words.get()),
                                    .scales = reinterpret_cast<float*>(scales.get()),
                                    .exceptional = reinterpret_cast<std::uint8_t*>(exceptional.get())};
  const bool any = table.slice[setting.slices - 1][setting.even_odd ? 1 : 0](arguments);
  EXPECT_EQ(any, std::count(arguments.exceptional, arguments.exceptional + groups, 1) > 0);
  for (std::int64_t group = 0; group < groups; ++group) {
    SCOPED_TRACE(fmt::format("group {}", group));
    expect_group(setting, row, group, arguments);
    ASSERT_FALSE(testing::Test::HasFatalFailure());
  }
}

TEST(SliceRow, EveryKindOfGroupBecomesWhatTheDefinitionSays) {
  const conformance::RestoreInstructionSet restore;
  for (const std::string& set : conformance::supported_instruction_sets()) {
    set_instruction_set(set);
    Random random(7);
    for (const Dtype dtype : {Dtype::float32, Dtype::float16, Dtype::bfloat16}) {
      for (const int group_size : {16, 32, 64, 128}) {
        const Row row(dtype, group_size, groups_of_every_kind(group_size, random));
        for (int slices = 1; slices <= max_slices; ++slices) {
          for (const bool even_odd : {false, true}) {
            for (const bool biased : {false, true}) {
              SCOPED_TRACE(fmt::format("{}, {}, groups of {}, {} slices, even_odd {}, biased {}", set, name_of(dtype), group_size,
                                       slices, even_odd, biased));
              expect_sliced(active_kernels(), {slices, even_odd, biased}, row);
              ASSERT_FALSE(testing::Test::HasFatalFailure());
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace gqmm::cpu
