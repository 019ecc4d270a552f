// moe_ffn_vjp keeps its error bound and has the same bits everywhere, and a caller's floating-point settings change neither it
// nor moe_ffn. tests/python/test_moe_gradients.py compares the values with differences, so that the oracle's formulas are not
// alone.
#include "conformance/support/check.hpp"
#include "conformance/support/moe_gradient_oracle.hpp"
#include "conformance/support/moe_problems.hpp"
#include "float_settings.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

int sweep() { return quick() ? 15 : 100; }

/// The gradients of a layer that exist: those of scales and biases, or of dense weights.
LayerWrt all_of(const ExpertWeights& weights, const std::optional<array>& bias) {
  const bool dense = std::holds_alternative<array>(weights);
  const auto* in_place = std::get_if<QuantizedWeights>(&weights);
  const auto* packed = std::get_if<PackedWeights>(&weights);
  const bool affine =
      (in_place != nullptr && in_place->mode == Mode::affine) || (packed != nullptr && packed->mode() == Mode::affine);
  return {.scales = affine, .biases = affine, .weights = dense, .bias = bias.has_value()};
}

MoeFfnGradients all_gradients(const MoeOperands& o, const array& dy, int threads = 1) {
  MoeFfnVjpOptions options = {.forward = o.options,
                              .wrt = {.x = true,
                                      .topk_weights = true,
                                      .gate = all_of(o.gate, o.options.gate_bias),
                                      .up = o.up ? all_of(*o.up, o.options.up_bias) : LayerWrt{},
                                      .down = all_of(o.down, o.options.down_bias)}};
  options.forward.stream.threads = threads;
  return moe_ffn_vjp(dy, o.x, o.ids, o.weights, o.gate, o.up, o.down, options);
}

std::vector<array> gradients_of(const MoeOperands& o, const array& dy, int threads = 1) {
  const MoeFfnGradients found = all_gradients(o, dy, threads);
  std::vector<array> gradients = {*found.x, *found.topk_weights};
  for (const LayerGradients* layer : {&found.gate, &found.up, &found.down}) {
    for (const std::optional<array>* part : {&layer->scales, &layer->biases, &layer->weights, &layer->bias}) {
      if (*part) {
        gradients.push_back(**part);
      }
    }
  }
  return gradients;
}

TEST(MoeFfnVjp, KeepsItsErrorBound) {
  double worst = 0;
  for (int i = 0; i < sweep(); ++i) {
    MoeSpec spec = random_moe(static_cast<std::uint64_t>(850000 + i));
    spec.tokens = std::min<std::int64_t>(spec.tokens, 8 / spec.k + 1);  // the oracle decodes every weight for every slot
    spec.shared = false;
    if (i % 2 == 0) {  // nothing hides the errors before the last rounding
      spec.dtype = spec.gate.dtype = spec.up.dtype = spec.down.dtype = Dtype::float32;
    }
    SCOPED_TRACE(describe(spec));
    MoeOperands operands = make(spec);
    operands.options.precision = Precision::float32;  // that of the gradients
    Random random(spec.seed + 5);
    const array dy = floats({spec.tokens, spec.H}, spec.dtype, 1.0, random);
    const MoeGradientValues expected = moe_gradients(operands, dy);
    const MoeFfnGradients actual = all_gradients(operands, dy);
    const auto compare = [&](const char* name, const GradientValues& values, const std::optional<array>& gradient) {
      ASSERT_EQ(values.empty(), !gradient) << name;
      if (gradient) {
        EXPECT_TRUE(keeps(values, *gradient)) << name;
        if (gradient->dtype() == Dtype::float32) {  // others have the rounding to their type, which hides the rest
          worst = std::max(worst, worst_fraction(values, *gradient));
        }
      }
    };
    compare("x", expected.x, actual.x);
    compare("topk_weights", expected.topk_weights, actual.topk_weights);
    const auto compare_layer = [&](const char* name, const LayerGradientValues& values, const LayerGradients& layer) {
      SCOPED_TRACE(name);
      compare("scales", values.scales, layer.scales);
      compare("biases", values.biases, layer.biases);
      compare("weights", values.weights, layer.weights);
      compare("bias", values.bias, layer.bias);
    };
    compare_layer("gate", expected.gate, actual.gate);
    compare_layer("up", expected.up, actual.up);
    compare_layer("down", expected.down, actual.down);
  }
  EXPECT_GT(worst, 0.05) << "the bound is much too wide";
}

TEST(MoeFfnVjp, HasTheSameBitsOnEveryInstructionSetAndWithAnyNumberOfThreads) {
  const RestoreInstructionSet restore;
  const std::vector<std::string> sets = supported_instruction_sets();
  for (int i = 0; i < sweep(); ++i) {
    const MoeSpec spec = random_moe(static_cast<std::uint64_t>(830000 + i));
    SCOPED_TRACE(describe(spec));
    MoeOperands operands = make(spec);
    operands.options.router_weight_on_input = i % 5 == 0;
    Random random(spec.seed + 3);
    const array dy = floats({spec.tokens, spec.H}, spec.dtype, 1.0, random);
    set_instruction_set(sets.front());
    const std::vector<array> expected = gradients_of(operands, dy);
    for (const std::string& set : sets) {
      set_instruction_set(set);
      const std::vector<array> actual = gradients_of(operands, dy, 1 + i % 3);
      ASSERT_EQ(actual.size(), expected.size());
      for (std::size_t g = 0; g < expected.size(); ++g) {
        EXPECT_TRUE(same_bits(expected[g], actual[g])) << "gradient " << g << ", " << set;
      }
    }
  }
}

TEST(MoeFfn, ACallersFloatSettingsChangeNothing) {
  const RestoreInstructionSet restore;
  const std::vector<std::string> sets = supported_instruction_sets();
  for (int i = 0; i < sweep() / 2; ++i) {
    const MoeSpec spec = random_moe(static_cast<std::uint64_t>(840000 + i));
    set_instruction_set(sets[static_cast<std::size_t>(i) % sets.size()]);
    SCOPED_TRACE(describe(spec));
    MoeOperands operands = make(spec);
    operands.options.router_weight_on_input = i % 5 == 0;
    Random random(spec.seed + 4);
    const auto small = [&](const Shape& shape, Dtype dtype) {  // some are subnormal
      return floats(shape, dtype, dtype == Dtype::float16 ? 0x1p-15 : 0x1p-128, random);
    };
    operands.x = small(operands.x.shape(), spec.dtype);
    operands.weights = i % 2 == 0 ? small(operands.weights->shape(), Dtype::float16) : *operands.weights;
    const array dy = floats({spec.tokens, spec.H}, spec.dtype, 1.0, random);
    const array y = operands.call();
    const std::vector<array> gradients = gradients_of(operands, dy);
    for (const threads::FloatControl setting : {flush_to_zero, round_down, round_towards_zero}) {
      const CallersSetting caller(setting);
      EXPECT_TRUE(same_bits(y, operands.call()));
      const std::vector<array> actual = gradients_of(operands, dy);
      for (std::size_t g = 0; g < gradients.size(); ++g) {
        EXPECT_TRUE(same_bits(gradients[g], actual[g])) << "gradient " << g;
      }
    }
  }
}

}  // namespace
}  // namespace gqmm::conformance
