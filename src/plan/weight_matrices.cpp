#include "plan/weight_matrices.hpp"

namespace gqmm::detail {
namespace {

WeightLayout transposed(WeightLayout layout) {
  switch (layout) {
    case WeightLayout::rows_along_k: return WeightLayout::rows_along_n;
    case WeightLayout::rows_along_n: return WeightLayout::rows_along_k;
    case WeightLayout::strips: return WeightLayout::strips_of_k;
    case WeightLayout::strips_of_k: return WeightLayout::strips;
  }
  return layout;
}

}  // namespace

WeightMatrices transposed(const WeightMatrices& weights) {
  if (const QuantizedMatrices* matrices = quantized(weights)) {
    QuantizedMatrices other = *matrices;
    other.layout = transposed(matrices->layout);
    return other;
  }
  return DenseMatrices{std::get<DenseMatrices>(weights).b.transposed()};
}

}  // namespace gqmm::detail
