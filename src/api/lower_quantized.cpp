// gather_qmm and quantized_matmul, over weights in place and packed: one Problem each.
#include "api/check.hpp"
#include "api/indices.hpp"
#include "api/lower.hpp"
#include "api/output.hpp"
#include "api/weights.hpp"
#include "plan/packed.hpp"

#include <optional>
#include <string_view>
#include <utility>

namespace gqmm {
namespace {

constexpr std::string_view gather_op = "gather_qmm";
constexpr std::string_view matmul_op = "quantized_matmul";

/// x as a stack of matrices; a vector is a matrix of one row.
struct Activations {
  array x;
  bool is_vector = false;
};

Activations check_gather_activations(const array& x) {
  check_compute_float(gather_op, "x", x);
  if (x.rank() < 2) {
    fail(gather_op, "x has shape {}; it needs at least two dimensions, (..., M, K): reshape it to (1, K) for a single row",
         to_string(x.shape()));
  }
  return {x};
}

Activations check_matmul_activations(const array& x) {
  check_compute_float(matmul_op, "x", x);
  if (x.rank() == 0) {
    fail(matmul_op, "x is a scalar; it needs at least one dimension, (K,)");
  }
  if (x.rank() > 1) {
    return {x};
  }
  return {array::borrow(x.bytes(), {1, x.dim(0)}, x.dtype(), {0, x.stride(0)}, x.owner()), true};
}

void check_matmul_options(const GatherQmmOptions& options) {
  if (options.lhs_indices || options.rhs_indices || options.sorted_indices) {
    fail(matmul_op, "{} is given; only gather_qmm selects matrices by index",
         options.lhs_indices   ? "lhs_indices"
         : options.rhs_indices ? "rhs_indices"
                               : "sorted_indices");
  }
  if (options.global_scale) {
    fail(matmul_op, "global_scale is given; only gather_qmm, quantize, dequantize and pack take it");
  }
}

/// Weights of either kind as the rest of the lowering sees them.
struct WeightSource {
  Shape leading;
  WeightExtents extents;
  const Format* format = nullptr;
  int group_size = 0;
  bool transpose = true;
  Dtype result_dtype = Dtype::float32;
  std::optional<QuantizedWeights> in_place;
  const PackedWeights::Data* packed = nullptr;
  const array* global_scale = nullptr;  // that of the call; packed weights may hold their own
};

int slices_of(Precision precision, Dtype result) {
  switch (precision) {
    case Precision::fast: return 1;
    case Precision::float32: return 3;
    case Precision::standard: break;
  }
  return result == Dtype::float32 ? 3 : 2;
}

void attach_global_scale(Lowered& lowered, const array& global_scale, const Shape& leading) {
  lowered.problem.global_scale = lowered.keep(global_scale_per_matrix(global_scale, leading));
}

void attach_weights(Lowered& lowered, const WeightSource& source) {
  Problem& problem = lowered.problem;
  if (source.packed != nullptr) {
    problem.packed = source.packed;
    for (const array* part : {&source.packed->codes, &source.packed->scales, &source.packed->biases}) {
      lowered.owners.push_back(part->owner());
    }
    if (source.packed->global_scale.size() != 0) {
      attach_global_scale(lowered, source.packed->global_scale, {source.packed->experts});
    }
  } else {
    const QuantizedWeights& weights = *source.in_place;
    problem.w = lowered.keep_contiguous(weights.w, lowered.rhs);
    problem.scales = lowered.keep_contiguous(*weights.scales, lowered.rhs);
    if (weights.biases != nullptr) {
      problem.biases = lowered.keep_contiguous(*weights.biases, lowered.rhs);
    }
  }
  if (source.global_scale != nullptr) {  // packed weights that hold one refuse another
    attach_global_scale(lowered, *source.global_scale, source.leading);
  }
}

/// The shape of the result for pairs of this shape.
Shape result_shape(Shape pairs, const Activations& activations, const WeightSource& source) {
  if (!activations.is_vector) {
    pairs.push_back(activations.x.dim(-2));
  }
  pairs.push_back(source.extents.N);
  return pairs;
}

ResultType result_of(std::string_view op, const Activations& activations, const WeightSource& source,
                     const GatherQmmOptions& options) {
  const Shape x_leading = leading_shape(activations.x);
  Shape pairs = pair_shape(op, {"x", "lhs_indices", x_leading, options.lhs_indices},
                           {"w", "rhs_indices", source.leading, options.rhs_indices});
  return {result_shape(std::move(pairs), activations, source), source.result_dtype};
}

Lowered lower(std::string_view op, const Activations& activations, const WeightSource& source, const GatherQmmOptions& options) {
  const array& x = activations.x;
  const Shape x_leading = leading_shape(x);
  Pairs pairs = resolve_pairs(op, {"x", "lhs_indices", x_leading, options.lhs_indices},
                              {"w", "rhs_indices", source.leading, options.rhs_indices}, options.sorted_indices);

  Lowered lowered;
  const QuantizedWeights* weights = source.in_place ? &*source.in_place : nullptr;
  lowered.result =
      make_result(op, result_shape(std::move(pairs.shape), activations, source), source.result_dtype, options.out,
                  {{"x", &x},
                   {"w", weights != nullptr ? &weights->w : &source.packed->codes},
                   {"scales", weights != nullptr ? weights->scales : &source.packed->scales},
                   {"biases", weights != nullptr ? weights->biases : &source.packed->biases},
                   {"global_scale",
                    source.global_scale != nullptr || weights != nullptr ? source.global_scale : &source.packed->global_scale},
                   {"lhs_indices", address_of(options.lhs_indices)},
                   {"rhs_indices", address_of(options.rhs_indices)}});
  lowered.lhs = std::move(pairs.lhs);
  lowered.rhs = std::move(pairs.rhs);

  lowered.owners.reserve(5);  // x, w, scales, biases, a global scale

  Problem& problem = lowered.problem;
  problem.M = x.dim(-2);
  problem.N = source.extents.N;
  problem.K = source.extents.K;
  problem.x = lowered.keep_contiguous(x, lowered.lhs);
  problem.format = source.format;
  problem.group_size = source.group_size;
  problem.transpose = source.transpose;
  attach_weights(lowered, source);
  problem.lhs = lowered.lhs;
  problem.rhs = lowered.rhs;
  problem.sorted = pairs.sorted;
  problem.y = lowered.result.mutable_bytes();
  problem.y_dtype = lowered.result.dtype();
  problem.slices = slices_of(options.precision, problem.y_dtype);
  problem.threads = options.stream.threads;
  return lowered;
}

WeightSource in_place(std::string_view op, const Activations& activations, const array& w, const GatherQmmOptions& options) {
  check_stream(op, options.stream);
  const QuantizedWeights weights = {
      .w = w,
      .scales = address_of(options.scales),
      .biases = address_of(options.biases),
      .global_scale = address_of(options.global_scale),
      .settings = resolve_settings(op, options.mode.value_or(Mode::affine), options.bits, options.group_size),
      .transpose = options.transpose.value_or(true),
  };
  const Format& format = *weights.settings.format;
  const WeightExtents extents = check_weights(op, weights, activations.x.dim(-1));
  return {
      .leading = leading_shape(w),
      .extents = extents,
      .format = &format,
      .group_size = weights.settings.group_size,
      .transpose = weights.transpose,
      .result_dtype = result_dtype(format, activations.x.dtype(), weights.scales->dtype(),
                                   weights.biases != nullptr ? weights.biases->dtype() : weights.scales->dtype()),
      .in_place = weights,
      .global_scale = weights.global_scale,
  };
}

template <class T>
void check_setting(std::string_view op, std::string_view name, const std::optional<T>& given, const T& packed) {
  if (given && *given != packed) {
    fail(op, "{} = {} but w was packed with {} = {}; leave it out or pack again", name, *given, name, packed);
  }
}

void check_packed_options(std::string_view op, const PackedWeights::Data& packed, const GatherQmmOptions& options) {
  const bool two_global_scales = options.global_scale && packed.global_scale.size() != 0;
  if (options.scales || options.biases || two_global_scales) {
    fail(op, "{} is given but w is packed and holds its own; leave it out",
         options.scales   ? "scales"
         : options.biases ? "biases"
                          : "global_scale");
  }
  if (options.mode) {
    check_setting(op, "mode", std::optional(name_of(*options.mode)), name_of(packed.format->mode));
  }
  check_setting(op, "bits", options.bits, packed.format->bits);
  check_setting(op, "group_size", options.group_size, packed.group_size);
  check_setting(op, "transpose", options.transpose, packed.transpose);
}

WeightSource from_packed(std::string_view op, const Activations& activations, const PackedWeights& w,
                         const GatherQmmOptions& options) {
  check_stream(op, options.stream);
  const PackedWeights::Data& packed = w.data();
  check_packed_options(op, packed, options);
  const auto rank = packed.shape.size();
  const std::int64_t rows = packed.shape[rank - 2];
  const std::int64_t cols = packed.shape[rank - 1];
  WeightSource source = {
      .leading = Shape(packed.shape.begin(), packed.shape.end() - 2),
      .extents = {.N = packed.transpose ? rows : cols, .K = packed.transpose ? cols : rows},
      .format = packed.format,
      .group_size = packed.group_size,
      .transpose = packed.transpose,
      .in_place = {},
      .packed = &packed,
      .global_scale = address_of(options.global_scale),
  };
  check_global_scale(op, packed.format->mode, source.global_scale, &source.leading);
  const std::int64_t x_K = activations.x.dim(-1);
  if (x_K != source.extents.K) {
    fail(op, "x has K = {} but the packed w of shape {} has K = {}; the last dimension of x must be K", x_K,
         to_string(packed.shape), source.extents.K);
  }
  source.result_dtype = result_dtype(*packed.format, activations.x.dtype(), packed.scales.dtype(),
                                     packed.format->has_biases ? packed.biases.dtype() : packed.scales.dtype());
  return source;
}

}  // namespace

Lowered lower_gather_qmm(const array& x, const array& w, const GatherQmmOptions& options) {
  const Activations activations = check_gather_activations(x);
  return lower(gather_op, activations, in_place(gather_op, activations, w, options), options);
}

Lowered lower_gather_qmm(const array& x, const PackedWeights& w, const GatherQmmOptions& options) {
  const Activations activations = check_gather_activations(x);
  return lower(gather_op, activations, from_packed(gather_op, activations, w, options), options);
}

ResultType result_of_gather_qmm(const array& x, const array& w, const GatherQmmOptions& options) {
  const Activations activations = check_gather_activations(x);
  return result_of(gather_op, activations, in_place(gather_op, activations, w, options), options);
}

Lowered lower_quantized_matmul(const array& x, const array& w, const GatherQmmOptions& options) {
  check_matmul_options(options);
  const Activations activations = check_matmul_activations(x);
  return lower(matmul_op, activations, in_place(matmul_op, activations, w, options), options);
}

Lowered lower_quantized_matmul(const array& x, const PackedWeights& w, const GatherQmmOptions& options) {
  check_matmul_options(options);
  const Activations activations = check_matmul_activations(x);
  return lower(matmul_op, activations, from_packed(matmul_op, activations, w, options), options);
}

ResultType result_of_quantized_matmul(const array& x, const array& w, const GatherQmmOptions& options) {
  check_matmul_options(options);
  const Activations activations = check_matmul_activations(x);
  return result_of(matmul_op, activations, in_place(matmul_op, activations, w, options), options);
}

}  // namespace gqmm
