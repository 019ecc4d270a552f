// Lowering: from the caller's arrays and options to a Problem. All validation, promotion, broadcasting and allocation happens
// here, and nowhere below. The functions throw std::invalid_argument before anything is written.
#pragma once

#include "api/kept_memory.hpp"
#include "api/weight_source.hpp"
#include "internal_api.hpp"
#include "plan/attention_problem.hpp"
#include "plan/convolution_problem.hpp"
#include "plan/gated_delta_problem.hpp"
#include "plan/gradient_problem.hpp"
#include "plan/moe_problem.hpp"
#include "plan/problem.hpp"
#include "plan/ssm_problem.hpp"

#include <gqmm/attention.hpp>
#include <gqmm/convolution.hpp>
#include <gqmm/gated_delta.hpp>
#include <gqmm/gradients.hpp>
#include <gqmm/grouped.hpp>
#include <gqmm/infer.hpp>
#include <gqmm/moe.hpp>
#include <gqmm/ops.hpp>
#include <gqmm/ssm.hpp>

#include <vector>

namespace gqmm::detail {

/// A Problem together with what lowering has made for it. The operands are not included; the caller keeps them.
struct Lowered : KeptMemory {
  Problem problem;
  array result;  // in the caller's shape; problem.y is its memory
  std::vector<std::int64_t> lhs;
  std::vector<std::int64_t> rhs;

  Lowered() = default;
  Lowered(Lowered&&) = default;
  Lowered& operator=(Lowered&&) = default;
  Lowered(const Lowered&) = delete;
  Lowered& operator=(const Lowered&) = delete;
};

GQMM_INTERNAL_API Lowered lower_gather_qmm(const array& x, AnyWeights weights, const GatherQmmOptions& options);
Lowered lower_quantized_matmul(const array& x, AnyWeights weights, const QuantizedMatmulOptions& options);
Lowered lower_gather_mm(const array& a, const array& b, const GatherMmOptions& options);
Lowered lower_grouped_qmm(const array& x, AnyWeights weights, const array& offsets, const GroupedQmmOptions& options);
Lowered lower_grouped_mm(const array& x, const array& b, const array& offsets, const GroupedMmOptions& options);

/// The gradients of a product, with everything that the problem points into.
struct LoweredGradients {
  Lowered operands;  // without a result
  GradientProblem problem;
  QuantizedGradients quantized;  // those that are wanted, with the memory that the problem writes to
  DenseGradients dense;

  LoweredGradients() = default;
  LoweredGradients(LoweredGradients&&) = default;
  LoweredGradients& operator=(LoweredGradients&&) = default;
};

LoweredGradients lower_gather_qmm_vjp(const array& dy, const array& x, AnyWeights weights, const GatherQmmVjpOptions& options);
LoweredGradients lower_quantized_matmul_vjp(const array& dy, const array& x, AnyWeights weights,
                                            const QuantizedMatmulVjpOptions& options);
LoweredGradients lower_gather_mm_vjp(const array& dy, const array& a, const array& b, const GatherMmVjpOptions& options);
LoweredGradients lower_grouped_qmm_vjp(const array& dy, const array& x, AnyWeights weights, const array& offsets,
                                       const GroupedQmmVjpOptions& options);
/// `dense` has the gradient of x as that of a.
LoweredGradients lower_grouped_mm_vjp(const array& dy, const array& x, const array& b, const array& offsets,
                                      const GroupedMmVjpOptions& options);

/// A MoeProblem together with everything that it points to, as Lowered.
struct LoweredMoe : KeptMemory {
  MoeProblem problem;
  array result;  // in the caller's shape; problem.y is its memory
  std::vector<std::int64_t> ids;

  LoweredMoe() = default;
  LoweredMoe(LoweredMoe&&) = default;
  LoweredMoe& operator=(LoweredMoe&&) = default;
  LoweredMoe(const LoweredMoe&) = delete;
  LoweredMoe& operator=(const LoweredMoe&) = delete;
};

GQMM_INTERNAL_API LoweredMoe lower_moe_ffn(const array& x, const array& topk_ids, const std::optional<array>& topk_weights,
                                           const ExpertWeights& gate, const std::optional<ExpertWeights>& up,
                                           const ExpertWeights& down, const MoeFfnOptions& options);

/// An AttentionProblem together with everything that it points to but its operands' own memory. If there is nothing to compute,
/// because the result is empty or there are no keys, problem.y is nullptr.
struct LoweredAttention : KeptMemory {
  AttentionProblem problem;
  array result;  // in the caller's shape; problem.y is its memory
};

LoweredAttention lower_attention(const array& q, const array& k, const array& v, float scale, const AttentionOptions& options);
LoweredAttention lower_quantized_attention(const array& q, const QuantizedWeights& q_keys, const QuantizedWeights& q_values,
                                           float scale, const QuantizedAttentionOptions& options);

/// A ConvolutionProblem together with everything that it points to but its operands' own memory. If there is nothing to compute,
/// problem.y is nullptr.
struct LoweredConvolution : KeptMemory {
  ConvolutionProblem problem;
  array result;
};

LoweredConvolution lower_depthwise_conv1d(const array& x, const array& weight, const DepthwiseConv1dOptions& options);

/// A GatedDeltaProblem together with everything that it points to but its operands' own memory. If there is nothing to compute,
/// problem.next_state is nullptr.
struct LoweredGatedDelta : KeptMemory {
  GatedDeltaProblem problem;
  GatedDeltaResult result;
};

LoweredGatedDelta lower_gated_delta(const array& q, const array& k, const array& v, const array& g, const array& beta,
                                    const GatedDeltaOptions& options);

/// The same for an SsmProblem.
struct LoweredSsm : KeptMemory {
  SsmProblem problem;
  SsmResult result;
};

LoweredSsm lower_ssm(const array& hidden_states, const array& A_log, const array& B, const array& C, const array& D,
                     const array& dt, const array& dt_bias, const SsmOptions& options);

/// The number of the weights' matrices, which have one leading dimension.
std::int64_t count_experts(const ExpertWeights& weights);
/// The ids of a call as numbers of the weights' experts, or no_expert (plan/routing.hpp).
std::vector<std::int64_t> load_expert_ids(const array& topk_ids, const MoeFfnOptions& options, std::int64_t experts);

}  // namespace gqmm::detail
