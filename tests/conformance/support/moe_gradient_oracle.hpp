// The gradients of moe_ffn in double precision, and how far from them those of moe_ffn_vjp may lie: a running error analysis of
// its operations (docs/reference/numerics.md, "A whole expert layer").
#pragma once

#include "conformance/support/gradient_oracle.hpp"
#include "conformance/support/moe_problems.hpp"

#include <gqmm/gqmm.hpp>

namespace gqmm::conformance {

/// The gradients of a layer. Those that it does not have are empty.
struct LayerGradientValues {
  GradientValues scales;
  GradientValues biases;
  GradientValues weights;
  GradientValues bias;
};

struct MoeGradientValues {
  GradientValues x;
  GradientValues topk_weights;
  LayerGradientValues gate;
  LayerGradientValues up;
  LayerGradientValues down;
};

/// The gradients of a call with weights, without shared experts and without router_weight_on_input.
MoeGradientValues moe_gradients(const MoeOperands& operands, const array& dy);

}  // namespace gqmm::conformance
