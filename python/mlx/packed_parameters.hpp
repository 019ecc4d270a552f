// The quantized parameters of a module in packed form, and arrays of MLX that stand for them. gqmm.mlx.pack_model makes them.
#pragma once

#include "weight_settings.hpp"

#include <gqmm/packed_weights.hpp>

#include <mlx/array.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Packed parameters, which are immutable. A part is one of the arrays that were packed. Part 0 is w, part 1 the scales, and part
/// 2 the biases, if the mode has them.
class PackedParameters : public std::enable_shared_from_this<PackedParameters> {
 public:
  /// Packs arrays that have been evaluated. Throws std::invalid_argument as gqmm::pack does.
  static std::shared_ptr<PackedParameters> pack(const std::vector<mx::array>& parts, const WeightSettings& settings);
  ~PackedParameters();
  PackedParameters(const PackedParameters&) = delete;
  PackedParameters& operator=(const PackedParameters&) = delete;

  [[nodiscard]] const PackedWeights& weights() const { return weights_; }
  [[nodiscard]] std::size_t parts() const { return outlines_.size(); }
  /// The number of bytes of the arrays that were packed.
  [[nodiscard]] std::int64_t original_bytes() const;

  /// Returns a new array of a graph that stands for a part. It has the part's shape and type, and no memory. Products use the
  /// packed weights in its place. Any other use evaluates it, which unpacks the part.
  [[nodiscard]] mx::array part(std::size_t index) const;
  /// Whether `a` is such an array, and has not been evaluated yet.
  [[nodiscard]] bool is_part(const mx::array& a, std::size_t index) const;
  /// Returns the packed parameters whose parts are exactly `arrays`: w, scales and perhaps biases. Returns null if there are
  /// none.
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
