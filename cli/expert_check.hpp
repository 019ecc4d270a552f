// Multiplies one quantized tensor with random activations and compares the result with the reference.
#pragma once

#include "api/lower.hpp"
#include "io/checkpoint.hpp"

#include <gqmm/types.hpp>

#include <cstdint>
#include <string>

namespace gqmm::cli {

struct CheckSettings {
  std::int64_t samples = 1024;  ///< how many outputs are compared for each tensor and type, or all if there are fewer
  std::uint64_t seed = 0;
  Precision precision = Precision::standard;
  int threads = 0;  ///< 0 means as many as are available
};

/// A compared output: the product of row `row` of x and row `n` of the weights of `expert`.
struct CheckedOutput {
  std::int64_t expert = 0;
  std::int64_t row = 0;
  std::int64_t n = 0;
  double value = 0;     ///< what the library computed
  double expected = 0;  ///< the reference
  double bound = 0;     ///< the largest error allowed (docs/reference/numerics.md)
  double fraction = 0;  ///< the error divided by the bound; infinite if only one of the two values is finite
};

struct CheckResult {
  Dtype x_dtype = Dtype::float32;
  Dtype y_dtype = Dtype::float32;
  std::int64_t outputs = 0;    ///< the number of outputs of the product
  std::int64_t compared = 0;   ///< how many of them were compared
  std::int64_t unwritten = 0;  ///< how many of them the library did not write
  CheckedOutput worst;         ///< the compared output with the largest fraction

  [[nodiscard]] bool passed() const noexcept { return unwritten == 0 && worst.fraction <= 1.0; }
};

/// A product together with its operands.
struct RandomProduct : detail::Lowered {
  QuantizedWeights weights;
  array x;
};

/// Makes a product of the tensor with random activations, and fills its result with poison. Every expert gets a row of x, and one
/// expert gets many rows. So the product uses the kernels of decode and of prefill. The tensor must have at least one expert.
[[nodiscard]] RandomProduct make_product(const io::QuantizedTensor& tensor, Dtype x_dtype, const CheckSettings& settings);

/// Compares a sample of the product's outputs with the reference. Searches all outputs for poison.
[[nodiscard]] CheckResult compare_with_reference(const detail::Problem& problem, const CheckSettings& settings);

/// Makes the product, runs it and compares.
[[nodiscard]] CheckResult check_tensor(const io::QuantizedTensor& tensor, Dtype x_dtype, const CheckSettings& settings);

}  // namespace gqmm::cli
