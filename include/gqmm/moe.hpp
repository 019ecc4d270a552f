// Operators of whole expert layers.
#pragma once

#include <gqmm/activation.hpp>
#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/packed_weights.hpp>
#include <gqmm/quantized_weights.hpp>
#include <gqmm/stream.hpp>
#include <gqmm/types.hpp>

#include <cstdint>
#include <optional>
#include <string_view>
#include <variant>

namespace gqmm {

/// Options of moe_combine.
struct GQMM_API MoeCombineOptions {
  Stream stream = {};             ///< where the operator runs, and with how many threads
  std::optional<array> out = {};  ///< memory for the result, as in GatherQmmOptions
};

/// Computes the weighted sum of each token's slots: y = Σ_j topk_weights[…, j] · slots[…, j, :].
///
/// slots: (…, k, H), the results of a token's k experts. topk_weights: (…, k), with the leading dimensions of slots; nothing
/// broadcasts. Each is float16, bfloat16 or float32, and strides are free. k may be 0; the result is 0 then.
///
/// Result: (…, H) of the type of slots. The sum starts as +0 and adds the slots by fma in float32, j ascending. It is rounded
/// once. So it does not matter where the slots were computed.
///
/// Throws std::invalid_argument before anything is written. The message names the operation, the values and a remedy.
GQMM_API array moe_combine(const array& slots, const array& topk_weights, const MoeCombineOptions& options = {});

/// The matrices of one linear layer, one for each expert: quantized, packed, or dense in float16, bfloat16 or float32. Their
/// shape is (E, outputs, inputs). Copies share memory.
using ExpertWeights = std::variant<QuantizedWeights, PackedWeights, array>;

/// The order of the outputs of a layer that computes gate and up together.
enum class GateUpOrder : std::uint8_t {
  gate_up,      ///< "gate_up": all of gate, then all of up, as vLLM and transformers store them
  up_gate,      ///< "up_gate": all of up, then all of gate, as FlashInfer stores them
  interleaved,  ///< "interleaved": gate and up by turns, as gpt-oss stores them
};

[[nodiscard]] GQMM_API std::string_view name_of(GateUpOrder order) noexcept;
/// The order with this name. Throws std::invalid_argument if there is none; the message starts with "[op] ".
[[nodiscard]] GQMM_API GateUpOrder gate_up_order_from_name(std::string_view name, std::string_view op);

/// Experts that every token takes. Their matrices have two dimensions, (outputs, inputs), or a leading dimension of 1. Several
/// shared experts are one with their inner sizes added up.
struct GQMM_API SharedExperts {
  ExpertWeights gate = {};                    ///< (I, H), or (2I, H) if the activation is gated and there is no `up`
  std::optional<ExpertWeights> up = {};       ///< (I, H)
  ExpertWeights down = {};                    ///< (H, I)
  std::optional<array> gate_bias = {};        ///< (I,) or (2I,), a compute float
  std::optional<array> up_bias = {};          ///< (I,), a compute float
  std::optional<array> down_bias = {};        ///< (H,), a compute float
  std::optional<Activation> activation = {};  ///< without it, the activation of the call
  /// The factor of each token's result: shape (…) or (…, 1) with the leading dimensions of x, a compute float. Without it, the
  /// result is added as it is.
  std::optional<array> scale = {};
};

/// The experts that the weights of a call hold, where each rank has some of all.
struct GQMM_API LocalExperts {
  std::int64_t first = 0;  ///< the number of the first one, at least 0
  std::int64_t count = 0;  ///< as many as the weights have matrices
};

/// Options of moe_ffn.
struct GQMM_API MoeFfnOptions {
  Activation activation = SwiGLU();                  ///< it decides the form: `up` exists only for gated ones
  GateUpOrder gate_up_order = GateUpOrder::gate_up;  ///< read if a gated activation has no `up`
  std::optional<array> gate_bias = {};               ///< (E, I), or (E, 2I) in gate_up_order; float16, bfloat16 or float32
  std::optional<array> up_bias = {};                 ///< (E, I), likewise
  std::optional<array> down_bias = {};               ///< (E, H), likewise
  /// Multiplies x by the router's weight before the experts, rounded to the type of x, and not their results. It needs
  /// topk_weights.
  bool router_weight_on_input = false;
  /// Missing::zero: a slot with a negative id is zero, and reads nothing.
  Missing missing = Missing::error;
  /// The weights hold only these experts, while ids count all. Slots of other experts are zero.
  std::optional<LocalExperts> local_experts = {};
  std::optional<SharedExperts> shared = {};   ///< experts that every token takes; they need topk_weights
  Precision precision = Precision::standard;  ///< precision to which x and h are cut into integers, by the type of x
  Stream stream = {};                         ///< where the operator runs, and with how many threads
  std::optional<array> out = {};              ///< memory for the result, as in GatherQmmOptions
};

/// Computes the feed-forward layer of a mixture of experts:
///
///     h[t, j] = activation(x[t] @ gate[e].T + gate_bias[e], x[t] @ up[e].T + up_bias[e])    with e = topk_ids[t, j]
///     y[t] = Σ_j topk_weights[t, j] · (h[t, j] @ down[e].T + down_bias[e])
///
/// x: (…, H), float16, bfloat16 or float32. topk_ids: (…, k), any integer type. topk_weights: (…, k), float16, bfloat16 or
/// float32. The leading dimensions are equal; nothing broadcasts. gate and up: (E, I, H), down: (E, H, I); each may have its own
/// format. A gated activation without `up` takes gate and up from gate, (E, 2I, H), in options.gate_up_order. An activation that
/// is not gated has no `up`.
///
/// Result: (…, H) of the type of x. Without topk_weights it is (…, k, H), the slots before they are added up. Each slot is
/// rounded once to the type of x. The sum is that of moe_combine; the shared experts come last. So moe_ffn without topk_weights,
/// then moe_combine, has the bits of moe_ffn. docs/reference/numerics.md states the order of operations.
///
/// Throws std::invalid_argument before anything is written. The message names the operation, the values and a remedy.
GQMM_API array moe_ffn(const array& x, const array& topk_ids, const std::optional<array>& topk_weights, const ExpertWeights& gate,
                       const std::optional<ExpertWeights>& up, const ExpertWeights& down, const MoeFfnOptions& options = {});

/// Which gradients of a layer of experts are wanted.
struct GQMM_API LayerWrt {
  bool scales = false;   ///< of affine weights, whether the gradient of the scales is
  bool biases = false;   ///< of affine weights, whether that of the biases beside the scales is
  bool weights = false;  ///< of a dense array, whether its gradient is
  bool bias = false;     ///< whether that of the layer's bias (gate_bias, up_bias, down_bias) is
};

/// Which gradients of moe_ffn are wanted: at least one.
struct GQMM_API MoeFfnWrt {
  bool x = true;              ///< whether the gradient of x is wanted
  bool topk_weights = false;  ///< whether that of topk_weights is
  LayerWrt gate = {};         ///< those of gate
  LayerWrt up = {};           ///< those of up
  LayerWrt down = {};         ///< those of down
};

/// The gradients of a layer that were asked for, each with the shape and type of its operand.
struct GQMM_API LayerGradients {
  std::optional<array> scales = {};   ///< for packed weights, the shape and type that unpack gives
  std::optional<array> biases = {};   ///< as the scales
  std::optional<array> weights = {};  ///< as the dense array
  std::optional<array> bias = {};     ///< as the layer's bias
};

/// The gradients that were asked for.
struct GQMM_API MoeFfnGradients {
  std::optional<array> x = {};             ///< (…, H), of the type of x
  std::optional<array> topk_weights = {};  ///< (…, k), of the type of topk_weights
  LayerGradients gate = {};                ///< those of gate
  LayerGradients up = {};                  ///< those of up
  LayerGradients down = {};                ///< those of down
};

/// Options of moe_ffn_vjp.
struct GQMM_API MoeFfnVjpOptions {
  MoeFfnOptions forward = {};  ///< those of the forward call; its precision and out are not read
  MoeFfnWrt wrt = {};          ///< the gradients that are wanted
};

/// The gradients of y = moe_ffn(x, topk_ids, topk_weights, gate, up, down, options.forward). dy: float16, bfloat16 or float32, in
/// the shape of y. The layer is computed again in float32 for them; nothing is kept from the forward. Sums are in float32 and
/// rounded once, to the type of the operand. Shared experts take part in the gradient of x; their own parameters have none here.
/// Where a value was clipped, the gradient is zero.
///
/// Memory: beside the operands and the gradients, a call takes up to 8 · S · I + 4 · S · H + 6 · T · H float32, and what its
/// products need. T is the number of tokens, S that of slots with an expert, and I the length of h. Shared experts are computed
/// after the routed ones have freed their part, with a slot for each token.
///
/// Throws std::invalid_argument before anything is computed, as moe_ffn does, and for gradients that do not exist.
[[nodiscard]] GQMM_API MoeFfnGradients moe_ffn_vjp(const array& dy, const array& x, const array& topk_ids,
                                                   const std::optional<array>& topk_weights, const ExpertWeights& gate,
                                                   const std::optional<ExpertWeights>& up, const ExpertWeights& down,
                                                   const MoeFfnVjpOptions& options = {});

}  // namespace gqmm
