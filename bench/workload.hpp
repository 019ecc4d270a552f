// The operands of a case, and the calls that a repetition makes.
#pragma once

#include "case.hpp"
#include "memory.hpp"
#include "rotation.hpp"

#include <gqmm/ops.hpp>
#include <gqmm/packed_weights.hpp>

#include <optional>
#include <vector>

namespace gqmm::bench {

/// How far the results of a call are from a float64 evaluation of the packed bits.
struct ErrorEstimate {
  double relative = 0;  ///< root mean square of the errors over that of the results
  double bound = 0;     ///< the worst error as a fraction of the bound of docs/numerics.md
};

/// Weights lie in a pool of copies, larger than the last-level cache several times over, and each call uses others: they come
/// from memory, as the many layers of a model do.
class Workload {
 public:
  /// Throws std::invalid_argument if the case contradicts itself or needs more memory than the machine has to spare.
  Workload(const Case& settings, std::size_t pool_bytes, Pages pages);

  /// Draws the experts of the next `calls` calls, so that a measurement need not. Returns how many a call hits on average.
  double prepare(int calls);

  /// gather_qmm with the next prepared indices and their weights, results to the same memory each time.
  void call();

  /// Of the latest call, over `samples` random outputs.
  [[nodiscard]] ErrorEstimate error(int samples) const;

  [[nodiscard]] int copies() const { return static_cast<int>(copies_.size()); }

 private:
  /// All experts' weights once.
  struct Weights {
    PageMemory memory;
    array w;
    array scales;
    std::optional<array> biases;
    std::optional<PackedWeights> packed;
  };

  /// The experts of one call, (tokens, top), and the copy of the weights that it uses.
  struct Call {
    std::vector<std::uint32_t> experts;
    int copy = 0;
  };

  void make_activations();
  [[nodiscard]] static Weights make_weights(const Case& settings, std::uint64_t seed, Pages pages);
  [[nodiscard]] GatherQmmOptions options(const Call& call, const Weights* in_place) const;

  Case case_;
  Rotation rotation_;
  std::vector<Weights> copies_;
  array x_;
  array y_;
  std::vector<Call> calls_;  // prepared
  std::size_t done_ = 0;     // of them
};

}  // namespace gqmm::bench
