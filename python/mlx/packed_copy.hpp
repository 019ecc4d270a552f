// A packed copy of weights that a program uses again and again (gqmm.mlx.install(pack=True)).
#pragma once

#include "weight_settings.hpp"

#include <gqmm/packed_weights.hpp>

#include <mlx/array.h>

#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// A copy of w, scales and, if the mode has them, biases. It is made when a product with the weights is evaluated for the second
/// time. It is not made if it would exceed the limit of all copies, or if memory is short. It is not made either if the memory of
/// an array has been lent (lent_arrays.hpp), because the borrower might write to it. Products then take the weights in place.
class PackedCopy {
 public:
  /// Keeps the arrays, so that MLX cannot reuse their memory while this object lives.
  PackedCopy(std::vector<mx::array> weights, WeightSettings settings);
  ~PackedCopy();
  PackedCopy(const PackedCopy&) = delete;
  PackedCopy& operator=(const PackedCopy&) = delete;

  /// Whether `weights` begins with the arrays that this is a copy of.
  [[nodiscard]] bool is_of(const std::vector<mx::array>& weights) const;
  [[nodiscard]] bool has_settings(const WeightSettings& settings) const { return settings == settings_; }
  /// Counts a use and returns the packed weights. Without a value the weights are to be taken in place. The arrays must have been
  /// evaluated.
  [[nodiscard]] std::optional<PackedWeights> use();

  /// Frees the packed weights for ever if `data` is the memory of one of the arrays.
  void drop_if_of(const mx::array::Data* data);

 private:
  [[nodiscard]] PackedWeights pack() const;
  void drop();

  const std::vector<mx::array> weights_;
  const WeightSettings settings_;
  std::mutex mutex_;
  bool was_used_ = false;
  bool is_lent_ = false;
  std::optional<PackedWeights> packed_;
};

struct PackedCopies {
  std::int64_t held = 0;
  std::int64_t held_bytes = 0;
  std::int64_t so_far = 0;  // all copies that have been made, also those that have been freed
  std::int64_t lent = 0;    // weights that were used twice and are taken in place, because their memory has been lent
};
PackedCopies packed_copies();
/// Frees the copies of arrays with this memory, which has been lent.
void drop_packed_copies_of(const mx::array::Data* data);
/// Sets the number of bytes that all copies together may take from now on. With 0 no copy is made.
void limit_packed_copies(std::int64_t bytes);

}  // namespace gqmm::mlx
