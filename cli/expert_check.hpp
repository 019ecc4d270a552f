// One quantized tensor, run through the library on random activations and held against the reference.
#pragma once

#include "api/lower.hpp"
#include "io/checkpoint.hpp"

#include <gqmm/types.hpp>

#include <cstdint>
#include <string>

namespace gqmm::cli {

struct CheckSettings {
  std::int64_t samples = 1024;  ///< outputs compared per tensor and type; all of them if there are no more
  std::uint64_t seed = 0;
  Precision precision = Precision::standard;
  int threads = 0;  ///< 0: as many as available
};

/// One output: row `row` of x, which goes to `expert`, times row `n` of its weights.
struct CheckedOutput {
  std::int64_t expert = 0;
  std::int64_t row = 0;
  std::int64_t n = 0;
  double value = 0;     ///< what the library computed
  double expected = 0;  ///< the reference's double
  double bound = 0;     ///< how far from it the value may be (docs/numerics.md)
  double fraction = 0;  ///< of the bound; infinite where only one of the two is finite
};

struct CheckResult {
  Dtype x_dtype = Dtype::float32;
  Dtype y_dtype = Dtype::float32;
  std::int64_t outputs = 0;    ///< computed
  std::int64_t compared = 0;   ///< of them
  std::int64_t unwritten = 0;  ///< of them all: the library left them as they were
  CheckedOutput worst;         ///< of those compared

  [[nodiscard]] bool passed() const noexcept { return unwritten == 0 && worst.fraction <= 1.0; }
};

/// A product of the tensor with random activations, its result poisoned. Every expert gets a row of x and a few experts many, so
/// that the product runs both as decoding and as prefill do. The tensor must have an expert.
[[nodiscard]] Lowered make_product(const io::QuantizedTensor& tensor, Dtype x_dtype, const CheckSettings& settings);

/// Compares a sample of the product's results with the reference, and looks for poison among all.
[[nodiscard]] CheckResult compare_with_reference(const Problem& problem, const CheckSettings& settings);

/// Makes the product, runs it and compares.
[[nodiscard]] CheckResult check_tensor(const io::QuantizedTensor& tensor, Dtype x_dtype, const CheckSettings& settings);

}  // namespace gqmm::cli
