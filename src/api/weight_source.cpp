#include "api/weight_source.hpp"

#include "api/check.hpp"

namespace gqmm::detail {
namespace {

WeightSource source_of_kind(std::string_view op, const QuantizedWeights& weights, std::optional<std::int64_t> x_K) {
  const QuantizationSettings settings = settings_of(op, weights);
  const WeightExtents extents = check_weights(op, weights, settings, x_K);
  return {.leading = leading_shape(weights.w),
          .extents = extents,
          .settings = settings,
          .scales = weights.scales.dtype(),
          .biases = weights.biases ? weights.biases->dtype() : weights.scales.dtype(),
          .in_place = &weights};
}

WeightSource source_of_kind(std::string_view op, const PackedWeights& weights, std::optional<std::int64_t> x_K) {
  const PackedWeights::Data& packed = weights.data();
  const auto rank = packed.shape.size();
  const std::int64_t rows = packed.shape[rank - 2];
  const std::int64_t cols = packed.shape[rank - 1];
  const WeightExtents extents = {.N = packed.transpose ? rows : cols, .K = packed.transpose ? cols : rows};
  if (x_K && *x_K != extents.K) {
    fail(op, "x has K = {} but the packed w of shape {} has K = {}; the last dimension of x must be K", *x_K,
         to_string(packed.shape), extents.K);
  }
  return {.leading = Shape(packed.shape.begin(), packed.shape.end() - 2),
          .extents = extents,
          .settings = packed.settings,
          .scales = packed.scales.dtype(),
          .biases = packed.format().has_biases ? packed.biases.dtype() : packed.scales.dtype(),
          .packed = &packed};
}

}  // namespace

WeightSource source_of(std::string_view op, AnyWeights weights, std::optional<std::int64_t> x_K) {
  return std::visit([&](const auto& of_a_kind) { return source_of_kind(op, of_a_kind.get(), x_K); }, weights);
}

QuantizedMatrices matrices_of(const WeightSource& source, std::span<const std::int64_t> used, KeptMemory& memory) {
  if (source.packed != nullptr) {
    return source.packed->matrices();
  }
  const QuantizedWeights& weights = *source.in_place;
  QuantizedMatrices matrices;
  matrices.settings = source.settings;
  matrices.layout = weights.transpose ? WeightLayout::rows_along_k : WeightLayout::rows_along_n;
  matrices.codes = memory.contiguous(weights.w, used);
  matrices.scales = memory.contiguous(weights.scales, used);
  if (weights.biases) {
    matrices.biases = memory.contiguous(*weights.biases, used);
  }
  if (weights.global_scale) {
    matrices.global_scale = MatrixBatch(global_scale_per_matrix(*weights.global_scale, source.leading));
  }
  matrices.experts = matrices.codes.count();
  return matrices;
}

std::array<NamedOperand, 4> operands_of(const WeightSource& source) {
  if (source.packed != nullptr) {
    return {{{"w", &source.packed->codes},
             {"scales", &source.packed->scales},
             {"biases", &source.packed->biases},
             {"global_scale", &source.packed->global_scale}}};
  }
  const QuantizedWeights& weights = *source.in_place;
  return {{{"w", &weights.w},
           {"scales", &weights.scales},
           {"biases", address_of(weights.biases)},
           {"global_scale", address_of(weights.global_scale)}}};
}

}  // namespace gqmm::detail
