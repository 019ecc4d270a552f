// Packed copies of weights that a program uses again and again, made on request (gqmm.mlx.install(pack=True)).
//
// A copy belongs to the Python object of the array w: it is made when the same w is used a second time, and freed with the
// object. What changes between calls, as the keys and values of a quantized cache do, is never packed.
#pragma once

#include <gqmm/packed_weights.hpp>

#include <mlx/array.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// A packed copy of w, scales and biases, made by the first product that is evaluated with it.
class PackedCopy {
 public:
  /// `weights` are w, scales and, if the mode has them, biases. They are kept: their memory cannot change meanwhile.
  PackedCopy(std::vector<mx::array> weights, PackOptions options);
  ~PackedCopy();
  PackedCopy(const PackedCopy&) = delete;
  PackedCopy& operator=(const PackedCopy&) = delete;

  /// Whether `weights` begins with the very arrays that this is a copy of.
  [[nodiscard]] bool is_of(const std::vector<mx::array>& weights) const;
  /// The copy, or nullopt where it would exceed the limit of all copies. The arrays must have been evaluated.
  [[nodiscard]] std::optional<PackedWeights> get();

 private:
  const std::vector<mx::array> weights_;
  const PackOptions options_;  // but for biases
  std::mutex mutex_;
  bool decided_ = false;
  std::optional<PackedWeights> packed_;
};

struct PackedCopies {
  std::int64_t held = 0;
  std::int64_t held_bytes = 0;
  std::int64_t so_far = 0;  // freed ones included
};
PackedCopies packed_copies();
/// Bytes that all copies together may hold from now on; 0: none is made.
void limit_packed_copies(std::int64_t bytes);

}  // namespace gqmm::mlx
