// A packed copy of weights that a program uses again and again (gqmm.mlx.install(pack=True)).
#pragma once

#include <gqmm/packed_weights.hpp>

#include <mlx/array.h>

#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Of w, scales and, if the mode has them, biases. It is made when a product is evaluated with it a second time, unless it would
/// exceed the limit of all copies, memory is short, or the memory of an array has been lent (lent_arrays.hpp) so that somebody
/// might write to it: products then take the weights in place.
class PackedCopy {
 public:
  /// Keeps the arrays: their memory cannot change meanwhile. `options` are resolved (no setting is left to a default) and name
  /// no biases.
  PackedCopy(std::vector<mx::array> weights, PackOptions options);
  ~PackedCopy();
  PackedCopy(const PackedCopy&) = delete;
  PackedCopy& operator=(const PackedCopy&) = delete;

  /// Whether `weights` begins with the very arrays that this is a copy of.
  [[nodiscard]] bool is_of(const std::vector<mx::array>& weights) const;
  [[nodiscard]] bool has_settings_of(const PackOptions& options) const;
  /// Counts a use, for which the arrays must have been evaluated. nullopt: take them in place.
  [[nodiscard]] std::optional<PackedWeights> use();

  /// Lets go of the packed weights, for good, if `data` is the memory of one of the arrays.
  void drop_if_of(const mx::array::Data* data);

 private:
  [[nodiscard]] PackedWeights pack() const;
  void drop();

  const std::vector<mx::array> weights_;
  const PackOptions options_;
  std::mutex mutex_;
  bool was_used_ = false;
  bool is_lent_ = false;
  std::optional<PackedWeights> packed_;
};

struct PackedCopies {
  std::int64_t held = 0;
  std::int64_t held_bytes = 0;
  std::int64_t so_far = 0;  // freed ones included
  std::int64_t lent = 0;    // weights that were used twice and are taken in place, because their memory has been lent
};
PackedCopies packed_copies();
/// Lets go of the copies of arrays with this memory, which has been lent.
void drop_packed_copies_of(const mx::array::Data* data);
/// Bytes that all copies together may hold from now on; 0: none is made.
void limit_packed_copies(std::int64_t bytes);

}  // namespace gqmm::mlx
