// The quantized parameters of a module in packed form, and arrays of MLX that stand for them (gqmm.mlx.pack_model).
#pragma once

#include <gqmm/packed_weights.hpp>

#include <mlx/array.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Immutable. Parts are numbered: 0 is w, 1 scales, 2 biases, if the mode has them.
class PackedParameters : public std::enable_shared_from_this<PackedParameters> {
 public:
  /// Packs arrays that have been evaluated. `options` name no biases. Throws std::invalid_argument as gqmm::pack does.
  static std::shared_ptr<PackedParameters> pack(const std::vector<mx::array>& parts, PackOptions options);
  ~PackedParameters();
  PackedParameters(const PackedParameters&) = delete;
  PackedParameters& operator=(const PackedParameters&) = delete;

  [[nodiscard]] const PackedWeights& weights() const { return weights_; }
  [[nodiscard]] std::size_t parts() const { return outlines_.size(); }
  /// Bytes of the arrays that were packed.
  [[nodiscard]] std::int64_t original_bytes() const;

  /// A new array of a graph that stands for a part: with its shape and type, and without memory. Products take the packed weights
  /// for it; any other use evaluates it, which unpacks the part.
  [[nodiscard]] mx::array part(std::size_t index) const;
  /// Whether `a` is such an array, not yet evaluated.
  [[nodiscard]] bool is_part(const mx::array& a, std::size_t index) const;
  /// What `arrays` (w, scales, biases) are all the parts of; null if they are not.
  static std::shared_ptr<const PackedParameters> of_parts(const std::vector<mx::array>& arrays);

 private:
  struct Outline {
    mx::Shape shape;
    mx::Dtype dtype;
  };
  PackedParameters(PackedWeights weights, std::vector<Outline> outlines);

  PackedWeights weights_;
  std::vector<Outline> outlines_;
};

struct PackedParameterCounts {
  std::int64_t held = 0;
  std::int64_t held_bytes = 0;
};
PackedParameterCounts packed_parameter_counts();

}  // namespace gqmm::mlx
