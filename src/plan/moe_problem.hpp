// A feed-forward layer of a mixture of experts after validation, in the form that the API gives to a backend.
#pragma once

#include "arrays/matrix_batch.hpp"
#include "plan/weight_matrices.hpp"

#include <gqmm/activation.hpp>
#include <gqmm/moe.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace gqmm::detail {

/// A linear layer of each expert: y = x · ŵᵀ + bias.
struct LinearLayer {
  WeightMatrices weights;  // (experts, N, K)
  MatrixBatch bias;        // one matrix (experts, N) of a compute float, rows without gaps; empty if there is none
  std::int64_t N = 0;
  std::int64_t K = 0;
};

/// The feed-forward block of each expert: down(activation(gate(x), up(x))).
struct FeedForwardLayers {
  LinearLayer gate;               // gate alone, or gate and up together
  std::optional<LinearLayer> up;  // empty if the activation is not gated, or if `gate` has both
  LinearLayer down;
  GateUpOrder order = GateUpOrder::gate_up;  // of a layer that has both
  Activation activation;

  /// The length of h.
  [[nodiscard]] std::int64_t I() const noexcept { return down.K; }
  [[nodiscard]] bool gate_has_both() const noexcept { return !up && is_gated(activation); }
};

/// y[t] = Σ_j weights[t, j] · experts[ids[t, j]](x[t]) + shared_scale[t] · shared(x[t])
struct MoeProblem {
  std::int64_t tokens = 0;
  std::int64_t k = 0;  // slots of a token
  std::int64_t H = 0;  // length of a row of x and of y

  MatrixBatch x;                      // (tokens, 1, H), a compute float, rows without gaps
  std::span<const std::int64_t> ids;  // (tokens, k), or no_expert (plan/routing.hpp)
  MatrixBatch topk_weights;           // (tokens, k) in all, a compute float; empty if the slots are the result
  bool router_weight_on_input = false;
  FeedForwardLayers experts;
  std::optional<FeedForwardLayers> shared;  // one expert
  MatrixBatch shared_scale;                 // (tokens) in all, a compute float; empty stands for 1

  std::byte* y = nullptr;        // row-major (tokens, H), or (tokens, k, H) without weights
  Dtype dtype = Dtype::float32;  // of x and y

  int slices = 3;   // 8-bit slices of an element of x and of h
  int threads = 0;  // 0 means as many as available
};

}  // namespace gqmm::detail
