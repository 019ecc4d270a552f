// activate and moe_combine keep their contract: the error bound per element, and the same bits on every instruction set, with any
// number of threads, at any strides.
#include "arrays/contiguous.hpp"
#include "conformance/support/check.hpp"
#include "conformance/support/layout.hpp"
#include "conformance/support/problems.hpp"
#include "float_settings.hpp"
#include "formats/float_types.hpp"
#include "reference/activation.hpp"

#include <gqmm/gqmm.hpp>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr Dtype compute_types[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16};

const Activation activations[] = {
    SwiGLU{},
    SwiGLU{.alpha = 1.702F, .limit = 7.0F, .bias = 1.0F},
    SwiGLU{.alpha = 0.25F, .limit = 0.5F},
    GeGLU{},
    GeGLU{.approximate = GeluApproximation::tanh},
    SiTU{.beta = 4.0F},
    SiTU{.beta = 0.3F, .linear_beta = 25.0F},
    SwiGLUStep{.limit = 2.5F},
    SiLU{},
    GELU{},
    GELU{.approximate = GeluApproximation::tanh},
    ReLU2{},
};

/// Values as activations have them, among small, large and extreme ones.
std::vector<float> random_values(std::int64_t count, bool with_special_values, Random& random) {
  constexpr float special[] = {0.0F,   -0.0F,  infinity, -infinity, std::numeric_limits<float>::quiet_NaN(),
                               3e38F,  -3e38F, 1e-45F,   -1e-40F,   0x1p-126F,
                               7.0F,   -7.0F,  0.5F,     2.5F,      88.0F,
                               -104.0F};
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    if (with_special_values && random.chance(0.1)) {
      value = random.one_of(special);
    } else {
      value =
          static_cast<float>(random.normal() * std::exp2(random.chance(0.7) ? random.uniform(-2, 4) : random.uniform(-30, 7)));
    }
  }
  return values;
}

array laid_out(const std::vector<float>& values, const Shape& shape, Dtype dtype, Layout layout, Random& random) {
  return lay_out(bytes_of(values, dtype), shape, dtype, layout, random);
}

float element(const array& a, std::int64_t i) { return load_float(a.bytes() + i * a.itemsize(), a.dtype()); }

std::string describe(const Activation& activation, Dtype dtype) {
  return fmt::format("{} {}", name_of(activation), name_of(dtype));
}

/// Operands of activate, row-major.
struct Rows {
  array gate;
  std::optional<array> up;
};

Rows random_rows(const Shape& shape, const Activation& activation, Dtype dtype, bool with_special_values, Random& random) {
  const auto operand = [&] {
    return laid_out(random_values(element_count(shape), with_special_values, random), shape, dtype, Layout::contiguous, random);
  };
  Rows rows = {.gate = operand(), .up = {}};
  if (is_gated(activation)) {
    rows.up = operand();
  }
  return rows;
}

array compute(const Rows& rows, const Activation& activation, int threads = 1) {
  return activate(rows.gate, rows.up, activation, {.stream = {.threads = threads}});
}

void for_each_activation(const std::function<void(const Activation&, Dtype)>& test) {
  for (const Activation& activation : activations) {
    for (const Dtype dtype : compute_types) {
      SCOPED_TRACE(describe(activation, dtype));
      test(activation, dtype);
    }
  }
}

TEST(Activate, KeepsItsErrorBound) {
  Random random(910000);
  double worst = 0;
  for_each_activation([&](const Activation& activation, Dtype dtype) {
    const Rows rows = random_rows({quick() ? 5000 : 50000}, activation, dtype, false, random);
    const array h = compute(rows, activation);
    for (std::int64_t i = 0; i < h.size(); ++i) {
      const double up = rows.up ? element(*rows.up, i) : 0;
      const ActivationReference reference = reference_activation(activation, element(rows.gate, i), up);
      const double bound = error_bound(reference, dtype);
      const double error = std::abs(element(h, i) - reference.h);
      ASSERT_TRUE(error <= bound || std::isinf(bound))
          << "gate = " << element(rows.gate, i) << ", up = " << up << ": h[" << i << "] = " << element(h, i) << " instead of "
          << reference.h << ", bound " << bound;
      if (dtype == Dtype::float32 && std::isfinite(bound)) {  // where the result's own rounding does not hide the rest
        worst = std::max(worst, error / bound);
      }
    }
  });
  EXPECT_GT(worst, 0.3) << "the bound is much too wide";
}

TEST(Activate, EveryInstructionSetGivesTheSameBits) {
  const RestoreInstructionSet restore;
  Random random(920000);
  const std::vector<std::string> sets = supported_instruction_sets();
  for_each_activation([&](const Activation& activation, Dtype dtype) {
    const Rows rows = random_rows({quick() ? 3001 : 20001}, activation, dtype, true, random);
    set_instruction_set(sets.front());
    const array expected = compute(rows, activation);
    for (const std::string& set : sets) {
      set_instruction_set(set);
      EXPECT_TRUE(same_bits(expected, compute(rows, activation))) << "expected " << sets.front() << ", actual " << set;
    }
  });
}

// An element alone, so that neither its place nor its neighbours matter: rows of every remainder, long ones, and matrices.
TEST(Activate, AnElementDoesNotDependOnItsNeighbours) {
  Random random(930000);
  for_each_activation([&](const Activation& activation, Dtype dtype) {
    for (const std::int64_t n : {1, 2, 15, 16, 17, 31, 33, 1023, 1025, 4097}) {
      const Rows rows = random_rows({n}, activation, dtype, true, random);
      const array h = compute(rows, activation);
      const std::int64_t i = random.integer(0, n - 1);
      const auto alone = [&](const array& a) { return array::borrow(a.bytes() + i * a.itemsize(), {}, dtype); };
      const Rows one = {.gate = alone(rows.gate), .up = rows.up ? std::optional(alone(*rows.up)) : std::nullopt};
      EXPECT_TRUE(same_bits(alone(h), compute(one, activation))) << "element " << i << " of " << n;
    }
  });
}

TEST(Activate, TheNumberOfThreadsChangesNothing) {
  Random random(940000);
  for_each_activation([&](const Activation& activation, Dtype dtype) {
    const Rows rows = random_rows({7, 6007}, activation, dtype, true, random);
    const array expected = compute(rows, activation);
    for (const int threads : {2, 5}) {
      EXPECT_TRUE(same_bits(expected, compute(rows, activation, threads))) << threads << " threads";
    }
  });
}

TEST(Activate, TheArrangementInMemoryChangesNothing) {
  Random random(950000);
  for_each_activation([&](const Activation& activation, Dtype dtype) {
    for (const Layout layout : all_layouts) {
      for (const Shape& shape : {Shape{3, 5, 37}, Shape{2, 1, 3, 1}, Shape{40, 2}}) {
        const auto operand = [&] {
          return laid_out(random_values(element_count(shape), true, random), shape, dtype, layout, random);
        };
        Rows strided = {.gate = operand(), .up = {}};
        Rows dense = {.gate = copy_row_major(strided.gate), .up = {}};
        if (is_gated(activation)) {
          strided.up = operand();
          dense.up = copy_row_major(*strided.up);
        }
        EXPECT_TRUE(same_bits(compute(dense, activation), compute(strided, activation))) << name_of(layout) << to_string(shape);
        if (strided.up) {
          dense.up = strided.up;
          EXPECT_TRUE(same_bits(compute(dense, activation), compute(strided, activation))) << name_of(layout) << ", up alone";
        }
      }
    }
  });
}

TEST(Activate, ACallersFloatSettingsChangeNothing) {
  Random random(960000);
  for_each_activation([&](const Activation& activation, Dtype dtype) {
    const Rows rows = random_rows({999}, activation, dtype, true, random);
    const array expected = compute(rows, activation);
    for (const threads::FloatControl setting : {flush_to_zero, round_down}) {
      const CallersSetting caller(setting);
      EXPECT_TRUE(same_bits(expected, compute(rows, activation)));
    }
  });
}

TEST(Activate, LimitsAtInfinity) {
  struct Case {
    Activation activation;
    float gate;
    float up;
    float h;
  };
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  const SwiGLU clipped = {.alpha = 1.702F, .limit = 7.0F, .bias = 1.0F};
  const float seven = 7;
  const array sevens = array::borrow(&seven, {}, Dtype::float32);
  const float at_limit = element(activate(sevens, sevens, clipped), 0);
  const Case cases[] = {
      {SiLU{}, -infinity, 0, -0.0F},
      {SiLU{}, infinity, 0, infinity},
      {SiLU{}, -3e38F, 0, -0.0F},
      {SiLU{}, 3e38F, 0, 3e38F},
      {SiLU{}, 0.0F, 0, 0.0F},
      {SiLU{}, -0.0F, 0, -0.0F},
      {SiLU{}, nan, 0, nan},
      {GELU{}, -infinity, 0, -0.0F},
      {GELU{}, infinity, 0, infinity},
      {GELU{}, -3e38F, 0, -0.0F},
      {GELU{.approximate = GeluApproximation::tanh}, -infinity, 0, -0.0F},
      {GELU{.approximate = GeluApproximation::tanh}, infinity, 0, infinity},
      {GELU{.approximate = GeluApproximation::tanh}, -3e38F, 0, -0.0F},
      {GELU{}, nan, 0, nan},
      {ReLU2{}, -infinity, 0, 0.0F},
      {ReLU2{}, -0.0F, 0, 0.0F},
      {ReLU2{}, infinity, 0, infinity},
      {ReLU2{}, nan, 0, nan},
      {SwiGLU{}, -3e38F, 3e38F, -0.0F},
      {SwiGLU{}, -infinity, 3e38F, -0.0F},
      {SwiGLU{}, infinity, 2.0F, infinity},
      {SwiGLU{}, 2.0F, nan, nan},
      {SwiGLU{}, nan, 2.0F, nan},
      {clipped, infinity, infinity, at_limit},
      {clipped, 1e30F, 1e30F, at_limit},
      {clipped, nan, 1.0F, nan},
      {clipped, 1.0F, nan, nan},
      {clipped, -infinity, 2.0F, -0.0F},
      {SwiGLUStep{.limit = 3.0F}, infinity, -infinity, -9.0F},
      {SwiGLUStep{.limit = 3.0F}, nan, 1.0F, nan},
      {SwiGLUStep{.limit = 3.0F}, 1.0F, nan, nan},
      {SiTU{.beta = 4.0F}, infinity, 2.0F, 8.0F},
      {SiTU{.beta = 4.0F}, -infinity, 2.0F, -0.0F},
      {SiTU{.beta = 4.0F, .linear_beta = 3.0F}, infinity, -infinity, -12.0F},
      {SiTU{.beta = 4.0F, .linear_beta = 3.0F}, nan, 1.0F, nan},
      {SiTU{.beta = 4.0F, .linear_beta = 3.0F}, 1.0F, nan, nan},
  };
  for (const auto& [activation, gate, up, expected] : cases) {
    const std::optional<array> ups = is_gated(activation) ? std::optional(array::borrow(&up, {}, Dtype::float32)) : std::nullopt;
    const float h = element(activate(array::borrow(&gate, {}, Dtype::float32), ups, activation), 0);
    EXPECT_TRUE((std::isnan(expected) && std::isnan(h)) || (h == expected && std::signbit(h) == std::signbit(expected)))
        << name_of(activation) << " of " << gate << ", " << up << " is " << h << " instead of " << expected;
  }
}

/// Operands of moe_combine.
struct Slots {
  array slots;
  array weights;
};

/// The specification, element by element.
array combined(const Slots& operands, const Shape& shape) {
  const std::int64_t k = operands.slots.dim(-2);
  const std::int64_t H = operands.slots.dim(-1);
  array y = array::empty(shape, operands.slots.dtype());
  for (std::int64_t i = 0; i < y.size(); ++i) {
    float sum = 0;
    for (std::int64_t j = 0; j < k; ++j) {
      sum = std::fma(element(operands.weights, i / H * k + j), element(operands.slots, (i / H * k + j) * H + i % H), sum);
    }
    store_float(y.mutable_bytes() + i * y.itemsize(), y.dtype(), sum);
  }
  return y;
}

TEST(MoeCombine, IsTheChainOfFmaOnEveryInstructionSet) {
  const RestoreInstructionSet restore;
  Random random(970000);
  for (const std::string& set : supported_instruction_sets()) {
    set_instruction_set(set);
    for (const Dtype dtype : compute_types) {
      for (const Shape& shape : {Shape{3, 1, 1}, Shape{2, 3, 4, 65}, Shape{5, 8, 64}, Shape{1, 8, 2100}, Shape{2, 16, 15},
                                 Shape{4, 0, 7}, Shape{6, 17}, Shape{0, 3, 5}}) {
        const Dtype weight_dtype = random.one_of(compute_types);
        const Shape leading(shape.begin(), shape.end() - 1);
        Shape result(shape.begin(), shape.end() - 2);
        result.push_back(shape.back());
        const Slots operands = {
            laid_out(random_values(element_count(shape), true, random), shape, dtype, Layout::contiguous, random),
            laid_out(random_values(element_count(leading), random.chance(0.3), random), leading, weight_dtype, Layout::contiguous,
                     random)};
        const array expected = combined(operands, result);
        for (const int threads : {1, 3}) {
          EXPECT_TRUE(same_bits(expected, moe_combine(operands.slots, operands.weights, {.stream = {.threads = threads}})))
              << set << ", " << name_of(dtype) << to_string(shape) << ", " << threads << " threads";
        }
      }
    }
  }
}

TEST(MoeCombine, TheNumberOfThreadsChangesNothing) {
  Random random(980000);
  const Shape shape = {300, 8, 1111};
  const Slots operands = {
      laid_out(random_values(element_count(shape), false, random), shape, Dtype::bfloat16, Layout::contiguous, random),
      laid_out(random_values(2400, false, random), {300, 8}, Dtype::float32, Layout::contiguous, random)};
  const array expected = combined(operands, {300, 1111});
  for (const int threads : {1, 2, 5}) {
    EXPECT_TRUE(same_bits(expected, moe_combine(operands.slots, operands.weights, {.stream = {.threads = threads}}))) << threads;
  }
}

TEST(MoeCombine, TheArrangementInMemoryChangesNothing) {
  Random random(990000);
  const Shape shape = {2, 4, 3, 37};
  const Shape leading = {2, 4, 3};
  for (const Dtype dtype : compute_types) {
    for (const Layout layout : all_layouts) {
      const Slots strided = {
          laid_out(random_values(element_count(shape), true, random), shape, dtype, layout, random),
          laid_out(random_values(element_count(leading), false, random), leading, Dtype::float32, layout, random)};
      const Slots dense = {copy_row_major(strided.slots), copy_row_major(strided.weights)};
      EXPECT_TRUE(same_bits(combined(dense, {2, 4, 37}), moe_combine(strided.slots, strided.weights)))
          << name_of(dtype) << ", " << name_of(layout);
    }
  }
}

}  // namespace
}  // namespace gqmm::conformance
