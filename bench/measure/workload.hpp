// A workload: the operands of a case, and the calls that a repetition makes.
#pragma once

#include "cases/case.hpp"
#include "measure/memory.hpp"
#include "measure/rotation.hpp"

#include <gqmm/moe.hpp>
#include <gqmm/ops.hpp>
#include <gqmm/packed_weights.hpp>

#include <optional>
#include <vector>

namespace gqmm::bench {

/// The difference between the results of a call and a float64 evaluation of the same quantized weights.
struct ErrorEstimate {
  double relative = 0;  ///< root mean square of the errors, divided by that of the results
  double bound = 0;     ///< the worst error as a fraction of the bound of docs/reference/numerics.md
};

/// The weights lie in a pool of copies, which is several times as large as the last-level cache. Each call uses other weights, so
/// they come from memory, as in a model with many layers.
class Workload {
 public:
  /// Throws std::invalid_argument if the case contradicts itself or needs more memory than is free.
  Workload(const Case& settings, std::size_t pool_bytes, Pages pages);

  /// Draws the experts of the next `calls` calls, so that a measurement does not do it. Returns how many experts a call hits on
  /// average.
  double prepare(int calls);

  /// Calls gather_qmm, or moe_ffn for a whole layer, with the next prepared indices and their weights. The results always go to
  /// the same memory.
  void call();

  /// Estimates the error of the latest call from `samples` random outputs.
  [[nodiscard]] ErrorEstimate error(int samples) const;

  [[nodiscard]] int copies() const { return static_cast<int>(copies_.size()); }

 private:
  /// One copy of a projection of all experts.
  struct Projection {
    PageMemory memory;
    QuantizedWeights in_place;  // has no arrays after they have been packed
    std::optional<PackedWeights> packed;

    [[nodiscard]] ExpertWeights weights() const { return packed ? ExpertWeights(*packed) : ExpertWeights(in_place); }
  };
  /// One copy of the weights: a projection, or gate, up and down. The same three of the shared experts follow, if there are any.
  using WeightCopy = std::vector<Projection>;

  /// The experts of one call, of shape (tokens, top), and the copy of the weights that it uses.
  struct Call {
    std::vector<std::uint32_t> experts;
    int copy = 0;
  };

  void make_activations();
  [[nodiscard]] static WeightCopy make_weights(const Case& settings, std::uint64_t seed, Pages pages);
  [[nodiscard]] static Projection make_projection(const Case& settings, std::int64_t experts, std::int64_t N, std::int64_t K,
                                                  std::uint64_t seed, Pages pages);
  /// The weights of a call in place. If they have been packed, they are made again in `original`.
  [[nodiscard]] const WeightCopy& weights_in_place(const Call& call, std::optional<WeightCopy>& original) const;
  [[nodiscard]] ErrorEstimate layer_error(int samples, const WeightCopy& weights, const Call& call) const;
  [[nodiscard]] MoeFfnOptions layer_options(const WeightCopy& weights) const;
  [[nodiscard]] array ids(const Call& call) const;
  [[nodiscard]] GatherQmmOptions options(const Call& call) const;

  Case case_;
  Rotation rotation_;
  std::vector<WeightCopy> copies_;
  array x_;
  array y_;
  std::optional<array> router_weights_;  // of a whole layer
  std::optional<array> biases_of_h_;     // of a whole layer that has biases: (E, N)
  std::optional<array> biases_of_y_;     // (E, K)
  std::vector<Call> calls_;              // the prepared calls
  std::size_t done_ = 0;                 // how many of them have been made
};

}  // namespace gqmm::bench
