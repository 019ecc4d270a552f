// What front ends that build graphs need before there is anything to compute: the shapes and types of results, and the checks of
// indices that are known.
#pragma once

#include <gqmm/activation.hpp>
#include <gqmm/array.hpp>
#include <gqmm/attention.hpp>
#include <gqmm/convolution.hpp>
#include <gqmm/export.hpp>
#include <gqmm/gated_delta.hpp>
#include <gqmm/moe.hpp>
#include <gqmm/norm.hpp>
#include <gqmm/ops.hpp>
#include <gqmm/packed_weights.hpp>
#include <gqmm/quantized_weights.hpp>
#include <gqmm/rope.hpp>
#include <gqmm/softmax.hpp>
#include <gqmm/ssm.hpp>
#include <gqmm/types.hpp>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace gqmm {

/// Shape and element type of a result.
struct GQMM_API ResultType {
  Shape shape;  ///< the extents, outermost dimension first
  Dtype dtype;  ///< the type of the elements
  /// Whether shape and type are equal.
  friend bool operator==(const ResultType&, const ResultType&) = default;
};

/// What the operator would return, judged by the types, shapes and settings of its operands; options.out is ignored. Their memory
/// is not read, so an operand may be borrowed from an address that has none, and the values of indices are not checked. Throws
/// std::invalid_argument as the operator does.
[[nodiscard]] GQMM_API ResultType infer_gather_qmm(const array& x, const QuantizedWeights& weights,
                                                   const GatherQmmOptions& options = {});
[[nodiscard]] GQMM_API ResultType infer_gather_qmm(const array& x, const PackedWeights& weights,
                                                   const GatherQmmOptions& options = {});
[[nodiscard]] GQMM_API ResultType infer_quantized_matmul(const array& x, const QuantizedWeights& weights,
                                                         const QuantizedMatmulOptions& options = {});
[[nodiscard]] GQMM_API ResultType infer_quantized_matmul(const array& x, const PackedWeights& weights,
                                                         const QuantizedMatmulOptions& options = {});
[[nodiscard]] GQMM_API ResultType infer_gather_mm(const array& a, const array& b, const GatherMmOptions& options = {});

[[nodiscard]] GQMM_API ResultType infer_moe_ffn(const array& x, const array& topk_ids, const std::optional<array>& topk_weights,
                                                const ExpertWeights& gate, const std::optional<ExpertWeights>& up,
                                                const ExpertWeights& down, const MoeFfnOptions& options = {});

/// Checks the values of topk_ids. Throws std::invalid_argument as moe_ffn does. Of `gate` only the shape is read.
GQMM_API void check_topk_ids(const array& topk_ids, const ExpertWeights& gate, const MoeFfnOptions& options = {});

[[nodiscard]] GQMM_API ResultType infer_moe_combine(const array& slots, const array& topk_weights,
                                                    const MoeCombineOptions& options = {});

[[nodiscard]] GQMM_API ResultType infer_scaled_dot_product_attention(const array& q, const array& k, const array& v, float scale,
                                                                     const AttentionOptions& options = {});

[[nodiscard]] GQMM_API ResultType infer_quantized_scaled_dot_product_attention(const array& q, const QuantizedWeights& q_keys,
                                                                               const QuantizedWeights& q_values, float scale,
                                                                               const QuantizedAttentionOptions& options = {});

[[nodiscard]] GQMM_API ResultType infer_rms_norm(const array& x, const std::optional<array>& weight, float eps,
                                                 const NormOptions& options = {});

[[nodiscard]] GQMM_API ResultType infer_layer_norm(const array& x, const std::optional<array>& weight,
                                                   const std::optional<array>& bias, float eps, const NormOptions& options = {});

[[nodiscard]] GQMM_API ResultType infer_softmax(const array& x, const std::vector<int>& axes = {-1},
                                                const SoftmaxOptions& options = {});

[[nodiscard]] GQMM_API ResultType infer_activate(const array& gate, const std::optional<array>& up, const Activation& activation,
                                                 const ActivateOptions& options = {});

[[nodiscard]] GQMM_API ResultType infer_rope(const array& x, int dims, const RopeOptions& options);

[[nodiscard]] GQMM_API ResultType infer_depthwise_conv1d(const array& x, const array& weight,
                                                         const DepthwiseConv1dOptions& options = {});

/// Shapes and types of what gated_delta_update returns.
struct GQMM_API GatedDeltaTypes {
  ResultType y;      ///< that of y
  ResultType state;  ///< that of the state
};
[[nodiscard]] GQMM_API GatedDeltaTypes infer_gated_delta_update(const array& q, const array& k, const array& v, const array& g,
                                                                const array& beta, const GatedDeltaOptions& options = {});

/// Shapes and types of what ssm_update returns.
struct GQMM_API SsmTypes {
  ResultType y;      ///< that of y
  ResultType state;  ///< that of the state
};
[[nodiscard]] GQMM_API SsmTypes infer_ssm_update(const array& hidden_states, const array& A_log, const array& B, const array& C,
                                                 const array& D, const array& dt, const array& dt_bias,
                                                 const SsmOptions& options = {});

/// The rows that offsets divide, as errors call them.
struct GQMM_API GroupedRows {
  std::string_view op;              ///< the operator: "grouped_qmm"
  std::int64_t rows = 0;            ///< rows of x
  std::int64_t experts = 0;         ///< matrices of the weights
  Missing behind = Missing::error;  ///< what happens to rows behind the last group
};

/// Checks the type and the shape of offsets, and reads no value. Throws std::invalid_argument as the operator does.
GQMM_API void check_offsets(const array& offsets, const GroupedRows& grouped);

/// The expert of each row, or −1 behind the last group. Throws std::invalid_argument, as the operator does, for offsets that
/// grouped_qmm refuses.
[[nodiscard]] GQMM_API std::vector<std::int64_t> experts_of_rows(const array& offsets, const GroupedRows& grouped);

/// What indices select from, as errors call it.
struct GQMM_API IndexedMatrices {
  std::string_view op;            ///< the operator: "gather_qmm"
  std::string_view operand;       ///< "x"
  std::string_view indices_name;  ///< "lhs_indices"
  std::int64_t count = 0;         ///< matrices of the operand
};

/// The values of an index array in row-major order. Throws std::invalid_argument, as the operator does, for another type than
/// integers and for a value outside 0 … count − 1.
[[nodiscard]] GQMM_API std::vector<std::int64_t> checked_indices(const array& indices, const IndexedMatrices& matrices);

}  // namespace gqmm
