// The arguments of moe_ffn as the inputs of a primitive. Settings say what stands where in the list.
#pragma once

#include "expert_layer.hpp"
#include "packed_copy.hpp"
#include "packed_parameters.hpp"
#include "weight_settings.hpp"

#include <gqmm/array.hpp>
#include <gqmm/infer.hpp>
#include <gqmm/moe.hpp>

#include <mlx/array.h>
#include <mlx/stream.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// The settings of a linear layer. Its inputs are w, scales, biases and global_scale, or the dense matrices, and then the bias.
/// Packed parameters replace w, scales and biases.
struct LinearSettings {
  bool quantized = false;
  WeightSettings weights = {};
  bool has_biases = false;
  bool has_global_scale = false;
  bool has_bias = false;
  std::shared_ptr<const PackedParameters> parameters = {};
  std::shared_ptr<PackedCopy> copy = {};  // of w, scales and biases; null if there is none

  /// Whether the layers compute the same from equal inputs. A packed copy changes no bit of that.
  friend bool operator==(const LinearSettings& a, const LinearSettings& b) {
    return a.quantized == b.quantized && a.weights == b.weights && a.has_biases == b.has_biases &&
           a.has_global_scale == b.has_global_scale && a.has_bias == b.has_bias && a.parameters == b.parameters;
  }
};

/// The settings of a feed-forward block. Its inputs are those of gate, up and down.
struct FeedForwardSettings {
  LinearSettings gate = {};
  std::optional<LinearSettings> up = {};
  LinearSettings down = {};
  Activation activation = SwiGLU();
  friend bool operator==(const FeedForwardSettings&, const FeedForwardSettings&) = default;
};

/// The settings of a layer. Its inputs are x, topk_ids, topk_weights, the scale of shared experts, the routed experts, and the
/// shared ones.
struct LayerSettings {
  bool has_topk_weights = false;
  bool has_scale = false;
  FeedForwardSettings experts = {};
  std::optional<FeedForwardSettings> shared = {};
  GateUpOrder order = GateUpOrder::gate_up;
  bool router_weight_on_input = false;
  Missing missing = Missing::error;
  std::optional<LocalExperts> local_experts = {};
  Precision precision = Precision::standard;

  friend bool operator==(const LayerSettings& a, const LayerSettings& b);
  /// The number of inputs that have the dimensions of the tokens. They come first.
  [[nodiscard]] std::size_t inputs_of_tokens() const { return 2 + (has_topk_weights ? 1 : 0) + (has_scale ? 1 : 0); }
};

/// The inputs of a primitive, and how to read them.
struct LayerInputs {
  std::vector<mx::array> inputs;
  LayerSettings settings;
};
/// Lists the arguments. Throws std::invalid_argument for a mode, or bits, or a group size that there is not.
LayerInputs inputs_of(const ExpertLayerArguments& arguments);
/// The arguments that the inputs stand for.
ExpertLayerArguments read_inputs(const std::vector<mx::array>& inputs, const LayerSettings& settings, mx::Stream stream);
/// Lets go of packed copies of other weights than those of the arguments. After mx.compile they may differ from those that the
/// settings were made for.
void drop_other_copies(LayerSettings& settings, const ExpertLayerArguments& arguments);

/// The arguments as gqmm::moe_ffn takes them.
struct MoeFfnCall {
  array x;
  array topk_ids;
  std::optional<array> topk_weights;
  ExpertWeights gate;
  std::optional<ExpertWeights> up;
  ExpertWeights down;
  MoeFfnOptions options;
};
/// Shapes and types alone, of arrays that may have no memory yet. Weights are those in place.
MoeFfnCall outline_of_call(const ExpertLayerArguments& arguments, const LayerSettings& settings);
/// The call, after its arrays have been evaluated. Weights are the packed ones where there are any. It counts as a use of these.
MoeFfnCall evaluated_call(const ExpertLayerArguments& arguments, const LayerSettings& settings);

/// Where the gradient of an input stands among the arguments and results of gqmm::moe_ffn_vjp. It has none if both are null.
struct GradientPlace {
  bool* wanted = nullptr;
  std::optional<array>* gradient = nullptr;
};
/// The places of the inputs' gradients, for each input in turn but those of shared experts, which have none.
std::vector<GradientPlace> gradient_places(const LayerSettings& settings, MoeFfnWrt& wrt, MoeFfnGradients& gradients);

/// Returns the shape and type of the result. Throws std::invalid_argument as gqmm::moe_ffn does.
ResultType result_of(const ExpertLayerArguments& arguments, const LayerSettings& settings);

}  // namespace gqmm::mlx
