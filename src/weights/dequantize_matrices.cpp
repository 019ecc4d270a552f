#include "weights/dequantize_matrices.hpp"

#include "threads/float_environment.hpp"
#include "threads/interrupt.hpp"
#include "weights/quantize_group.hpp"

#include <cstdint>

namespace gqmm::detail {
namespace {

/// Walks through the groups of the four arrays together.
class GroupReader {
 public:
  GroupReader(const QuantizedMatrices& matrices, const DequantizedTypes& types)
      : matrices_(matrices), format_(matrices.format()), group_size_(matrices.group_size()), types_(types) {}

  /// Writes one row of weights and returns the address after it.
  std::byte* read_row(std::int64_t matrix, std::int64_t row, std::byte* to) const {
    const std::byte* codes = matrices_.codes.row(matrix, row);
    for (std::int64_t group = 0; group < matrices_.scales.cols(); ++group) {
      if (group * group_size_ % threads::elements_between_questions == 0) {
        threads::throw_if_interrupted();
      }
      const float scale = scale_at(matrix, row, group);
      const float bias = bias_at(matrix, row, group);
      for (std::int64_t k = group * group_size_; k < (group + 1) * group_size_; ++k) {
        float weight = round_to(types_.product, scale * format_.value(load_code(codes, k, format_.bits)));
        if (format_.has_biases) {
          weight = round_to(types_.sum, weight + bias);
        }
        store_float(to, types_.result, weight);
        to += size_of(types_.result);
      }
    }
    return to;
  }

 private:
  [[nodiscard]] float scale_at(std::int64_t matrix, std::int64_t row, std::int64_t group) const {
    const MatrixBatch& scales = matrices_.scales;
    const MatrixBatch& global_scale = matrices_.global_scale;
    const std::byte* address = scales.row(matrix, row) + group * scales.col_stride();
    const float scale = round_to(types_.product, load_scale(address, format_.scale_encoding, scales.dtype()));
    return global_scale.empty() ? scale : scale * nvfp4_scale_factor(load_unaligned<float>(global_scale.matrix(matrix)));
  }
  [[nodiscard]] float bias_at(std::int64_t matrix, std::int64_t row, std::int64_t group) const {
    const MatrixBatch& biases = matrices_.biases;
    return biases.empty() ? 0.0F : load_float(biases.row(matrix, row) + group * biases.col_stride(), biases.dtype());
  }

  const QuantizedMatrices& matrices_;
  const Format& format_;
  std::int64_t group_size_;
  DequantizedTypes types_;
};

}  // namespace

void dequantize_matrices(const QuantizedMatrices& matrices, const DequantizedTypes& types, std::byte* to) {
  const threads::FloatEnvironment environment;
  const GroupReader reader(matrices, types);
  for (std::int64_t matrix = 0; matrix < matrices.codes.count(); ++matrix) {
    for (std::int64_t row = 0; row < matrices.codes.rows(); ++row) {
      to = reader.read_row(matrix, row, to);
    }
  }
}

}  // namespace gqmm::detail
