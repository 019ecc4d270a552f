#include "plan/packed.hpp"

namespace gqmm {

using namespace detail;

namespace {

/// A view of an array (experts,) as (experts, 1, 1).
MatrixBatch one_per_expert(const array& values) {
  return MatrixBatch(array::borrow(values.bytes(), {values.dim(0), 1, 1}, values.dtype(), {}, values.owner()));
}

}  // namespace

QuantizedMatrices PackedWeights::Data::matrices() const {
  return {.settings = settings,
          .layout = transpose ? WeightLayout::strips : WeightLayout::rows_along_n,
          .experts = experts,
          .codes = MatrixBatch(codes),
          .scales = MatrixBatch(scales),
          .biases = format().has_biases ? MatrixBatch(biases) : MatrixBatch(),
          .global_scale = global_scale.size() != 0 ? one_per_expert(global_scale) : MatrixBatch()};
}

}  // namespace gqmm
