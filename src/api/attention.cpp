// scaled_dot_product_attention and its sibling over quantized keys and values: the checks of their arguments.
#include "cpu/attention.hpp"

#include "api/broadcast.hpp"
#include "api/check.hpp"
#include "api/indices.hpp"
#include "api/loaded_values.hpp"
#include "api/lower.hpp"
#include "api/output.hpp"
#include "api/weight_source.hpp"
#include "arrays/views.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/attention.hpp>
#include <gqmm/infer.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view dense_op = "scaled_dot_product_attention";
constexpr std::string_view quantized_op = "quantized_scaled_dot_product_attention";
constexpr std::int64_t largest_depth = std::int64_t{1} << 20;  // kernels count the elements of a head in int
constexpr std::int64_t farthest_origin = std::int64_t{1} << 62;

/// An argument with the shape (batch, heads, length, depth).
struct Heads {
  std::string_view name;
  Shape shape;
};

void check_shape(std::string_view op, const Heads& heads) {
  const auto& [name, shape] = heads;
  if (shape.size() != 4) {
    fail(op, "{} has shape {}; it must have four dimensions, (batch, heads, length, depth)", name, to_string(shape));
  }
  if (shape[3] < 1 || shape[3] > largest_depth) {
    fail(op, "{} has shape {}; its last dimension must be 1 … {}", name, to_string(shape), largest_depth);
  }
}

Heads dense_heads(std::string_view op, std::string_view name, const array& a) {
  check_compute_float(op, name, a);
  Heads heads = {name, a.shape()};
  check_shape(op, heads);
  return heads;
}

void check_operands(std::string_view op, const Heads& q, const Heads& k, const Heads& v, float scale) {
  if (k.shape[0] != q.shape[0] || v.shape[0] != q.shape[0]) {
    fail(op, "{}, {} and {} have batches of {}, {} and {}; they must be equal", q.name, k.name, v.name, q.shape[0], k.shape[0],
         v.shape[0]);
  }
  if (k.shape[3] != q.shape[3]) {
    fail(op, "{} has shape {} but {} has shape {}; their last dimensions must be equal", q.name, to_string(q.shape), k.name,
         to_string(k.shape));
  }
  if (v.shape[1] != k.shape[1] || v.shape[2] != k.shape[2]) {
    fail(op, "{} has shape {} but {} has shape {}; heads and lengths must be equal", k.name, to_string(k.shape), v.name,
         to_string(v.shape));
  }
  if (k.shape[1] == 0 ? q.shape[1] != 0 : q.shape[1] % k.shape[1] != 0) {
    fail(op, "{} has {} heads but {} and {} have {}; {} must have a multiple of them", q.name, q.shape[1], k.name, v.name,
         k.shape[1], q.name);
  }
  if (!std::isfinite(scale)) {
    fail(op, "scale = {} is not finite; pass a number such as 1 / sqrt({})", scale, q.shape[3]);
  }
}

MaskKind mask_kind_of(std::string_view op, const AttentionMask& mask, const Shape& scores) {
  if (std::holds_alternative<std::monostate>(mask)) {
    return MaskKind::none;
  }
  if (std::holds_alternative<CausalMask>(mask)) {
    return MaskKind::causal;
  }
  const array& given = std::get<array>(mask);
  if (given.dtype() != Dtype::bool_ && !is_compute_float(given.dtype())) {
    fail(op, "mask is {}; it must be bool, float16, bfloat16 or float32", name_of(given.dtype()));
  }
  if (broadcast_shapes(given.shape(), scores) != scores) {
    fail(op, "mask of shape {} does not broadcast to {}, (batch, heads of q, queries, keys)", to_string(given.shape()),
         to_string(scores));
  }
  return given.dtype() == Dtype::bool_ ? MaskKind::boolean : MaskKind::additive;
}

void check_sinks(const std::optional<array>& sinks, std::int64_t heads) {
  if (!sinks) {
    return;
  }
  check_compute_float(dense_op, "sinks", *sinks);
  if (sinks->shape() != Shape{heads}) {
    fail(dense_op, "sinks has shape {}; it must be ({},), a score for each head of q", to_string(sinks->shape()), heads);
  }
}

void check_origin(std::string_view op, const std::optional<array>& origin, std::int64_t batch) {
  if (!origin) {
    return;
  }
  check_integer(op, "origin", *origin);
  if (origin->shape() != Shape{batch}) {
    fail(op, "origin has shape {}; it must be ({},), an index for each batch element", to_string(origin->shape()), batch);
  }
}

/// The options that both operators have.
struct CommonOptions {
  const AttentionMask& mask;
  const std::optional<array>& origin;
  const Stream& stream;
  const std::optional<array>& out;
};

template <class Options>
CommonOptions common(const Options& options) {
  return {options.mask, options.origin, options.stream, options.out};
}

void check_common(std::string_view op, const CommonOptions& options, const Shape& scores) {
  static_cast<void>(mask_kind_of(op, options.mask, scores));
  check_origin(op, options.origin, scores[0]);
  check_stream(op, options.stream);
}

/// Quantized keys or values: their source, and the shape that they have when they are dequantized.
struct HeadsSource {
  WeightSource source;
  Heads heads;
};

HeadsSource quantized_heads(std::string_view name, const QuantizedWeights& weights) {
  constexpr std::string_view op = quantized_op;
  if (weights.mode != Mode::affine) {
    fail(op, "{} has mode \"{}\"; quantize it with mode \"affine\"", name, name_of(weights.mode));
  }
  if (!weights.transpose) {
    fail(op, "{} has transpose = false; its groups must lie along the depth, so set transpose = true", name);
  }
  if (weights.w.rank() != 4) {
    fail(op, "{} has codes of shape {}; they must have four dimensions, (batch, heads, length, words)", name,
         to_string(weights.w.shape()));
  }
  HeadsSource result = {.source = naming(op, name, [&] { return source_of(op, weights, std::nullopt); }), .heads = {name, {}}};
  result.heads.shape = dequantized_shape(weights, result.source.extents);
  check_shape(op, result.heads);
  return result;
}

/// Throws if the keys have another depth than q, and says which bits would give it.
void check_depth(const array& q, const HeadsSource& keys) {
  const std::int64_t depth = q.dim(3);
  const std::int64_t bits_of_row = keys.source.in_place->w.dim(3) * 32;
  if (keys.source.extents.K == depth) {
    return;
  }
  std::string remedy = "their last dimensions must be equal";
  for (const int bits : bits_of(Mode::affine)) {
    if (bits * depth == bits_of_row) {
      remedy = fmt::format("bits = {} would fit", bits);
    }
  }
  fail(quantized_op, "q has shape {} but {} of {} bits has shape {}; {}", to_string(q.shape()), keys.heads.name,
       keys.source.settings.format->bits, to_string(keys.heads.shape), remedy);
}

/// The mask with the shape of the scores; dimensions that it repeats have stride 0.
array broadcast_mask(const array& mask, const Shape& scores) {
  Strides strides(scores.size(), 0);
  const std::size_t added = scores.size() - mask.shape().size();
  for (std::size_t i = 0; i < mask.shape().size(); ++i) {
    strides[added + i] = mask.shape()[i] == 1 ? 0 : mask.strides()[i];
  }
  return array::borrow(mask.bytes(), scores, mask.dtype(), strides, mask.owner());
}

std::vector<std::int64_t> load_origins(std::string_view op, const std::optional<array>& origin, std::int64_t batch) {
  std::vector<std::int64_t> values(static_cast<std::size_t>(batch), 0);
  for (std::int64_t b = 0; origin && b < batch; ++b) {
    const std::optional<std::int64_t> value = load_integer(origin->bytes() + b * origin->strides()[0], origin->dtype());
    if (!value || *value < -farthest_origin || *value > farthest_origin) {
      fail(op, "origin[{}] = {} is not within ±2^62; pass the index of the key at position 0", b,
           value ? std::to_string(*value) : "a number beyond 2^63");
    }
    values[static_cast<std::size_t>(b)] = *value;
  }
  return values;
}

/// Makes the result, and all of the problem but keys, values and sinks. `read` are the operands besides q, mask and origin.
LoweredAttention lower_common(std::string_view op, const array& q, const Shape& k, const ResultType& type, float scale,
                              const CommonOptions& options, std::vector<NamedOperand> read) {
  const array* const mask = std::get_if<array>(&options.mask);
  read.insert(read.end(), {{"q", &q}, {"mask", mask}, {"origin", options.origin ? &*options.origin : nullptr}});
  const Shape scores = {q.dim(0), q.dim(1), q.dim(2), k[2]};
  std::vector<std::int64_t> origin = load_origins(op, options.origin, q.dim(0));
  LoweredAttention lowered;
  lowered.result = make_result(op, type.shape, type.dtype, options.out, read);
  if (lowered.result.size() == 0 || k[2] == 0) {
    return lowered;
  }
  AttentionProblem& problem = lowered.problem;
  problem.batch = q.dim(0);
  problem.q_heads = q.dim(1);
  problem.kv_heads = k[1];
  problem.q = MatrixBatch(q);
  problem.scale = scale;
  problem.mask_kind = mask_kind_of(op, options.mask, scores);
  problem.origin = std::move(origin);
  problem.y = lowered.result.mutable_bytes();
  problem.y_dtype = type.dtype;
  problem.threads = options.stream.threads;
  if (mask != nullptr) {
    const array whole = broadcast_mask(*mask, scores);
    problem.mask = MatrixBatch(whole);
    problem.mask_differs_by_head = whole.strides()[1] != 0;
  }
  return lowered;
}

/// Computes the result.
array run(LoweredAttention lowered) {
  array& result = lowered.result;
  if (lowered.problem.y != nullptr) {
    cpu::attend(lowered.problem);
  } else {
    std::fill_n(result.mutable_bytes(), result.nbytes(), std::byte{0});  // without keys, the sum of no values
  }
  return result;
}

KeyMatrices matrices_of_heads(const HeadsSource& heads, KeptMemory& memory) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(heads.heads.shape[0] * heads.heads.shape[1]));
  std::iota(all.begin(), all.end(), 0);
  return {.dense = {}, .quantized = matrices_of(heads.source, all, memory)};
}

/// The arguments of quantized attention after their checks.
struct CheckedQuantized {
  HeadsSource keys;
  HeadsSource values;
  ResultType type;
};

CheckedQuantized check_quantized(const array& q, const QuantizedWeights& q_keys, const QuantizedWeights& q_values, float scale,
                                 const QuantizedAttentionOptions& options) {
  const Heads q_heads = dense_heads(quantized_op, "q", q);
  CheckedQuantized checked = {
      .keys = quantized_heads("q_keys", q_keys), .values = quantized_heads("q_values", q_values), .type = {}};
  const Shape& k = checked.keys.heads.shape;
  check_depth(q, checked.keys);
  check_operands(quantized_op, q_heads, checked.keys.heads, checked.values.heads, scale);
  check_common(quantized_op, common(options), {q.dim(0), q.dim(1), q.dim(2), k[2]});
  checked.type = {{q.dim(0), q.dim(1), q.dim(2), checked.values.heads.shape[3]},
                  promote(result_dtype(checked.keys.source, q.dtype()), result_dtype(checked.values.source, q.dtype()))};
  return checked;
}

}  // namespace

ResultType infer_scaled_dot_product_attention(const array& q, const array& k, const array& v, float scale,
                                              const AttentionOptions& options) {
  const Heads q_heads = dense_heads(dense_op, "q", q);
  const Heads k_heads = dense_heads(dense_op, "k", k);
  check_operands(dense_op, q_heads, k_heads, dense_heads(dense_op, "v", v), scale);
  check_common(dense_op, common(options), {q.dim(0), q.dim(1), q.dim(2), k.dim(2)});
  check_sinks(options.sinks, q.dim(1));
  return {{q.dim(0), q.dim(1), q.dim(2), v.dim(3)}, promote(promote(q.dtype(), k.dtype()), v.dtype())};
}

ResultType infer_quantized_scaled_dot_product_attention(const array& q, const QuantizedWeights& q_keys,
                                                        const QuantizedWeights& q_values, float scale,
                                                        const QuantizedAttentionOptions& options) {
  return check_quantized(q, q_keys, q_values, scale, options).type;
}

namespace detail {

LoweredAttention lower_attention(const array& q, const array& k, const array& v, float scale, const AttentionOptions& options) {
  const ResultType type = infer_scaled_dot_product_attention(q, k, v, scale, options);
  LoweredAttention lowered = lower_common(dense_op, q, k.shape(), type, scale, common(options),
                                          {{"k", &k}, {"v", &v}, {"sinks", options.sinks ? &*options.sinks : nullptr}});
  if (lowered.problem.y != nullptr) {
    lowered.problem.k = {.dense = lowered.contiguous(k)};
    lowered.problem.v = {.dense = lowered.contiguous(v)};
    lowered.problem.sinks = options.sinks ? load_vector(*options.sinks) : std::vector<float>();
  }
  return lowered;
}

LoweredAttention lower_quantized_attention(const array& q, const QuantizedWeights& q_keys, const QuantizedWeights& q_values,
                                           float scale, const QuantizedAttentionOptions& options) {
  const CheckedQuantized checked = check_quantized(q, q_keys, q_values, scale, options);
  std::vector<NamedOperand> read;
  for (const HeadsSource* const heads : {&checked.keys, &checked.values}) {
    for (const NamedOperand& operand : operands_of(heads->source)) {
      read.push_back({heads->heads.name, operand.operand});
    }
  }
  LoweredAttention lowered =
      lower_common(quantized_op, q, checked.keys.heads.shape, checked.type, scale, common(options), std::move(read));
  if (lowered.problem.y != nullptr) {
    lowered.problem.k = matrices_of_heads(checked.keys, lowered);
    lowered.problem.v = matrices_of_heads(checked.values, lowered);
  }
  return lowered;
}

}  // namespace detail

array scaled_dot_product_attention(const array& q, const array& k, const array& v, float scale, const AttentionOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_attention(q, k, v, scale, options));
}

array quantized_scaled_dot_product_attention(const array& q, const QuantizedWeights& q_keys, const QuantizedWeights& q_values,
                                             float scale, const QuantizedAttentionOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return run(lower_quantized_attention(q, q_keys, q_values, scale, options));
}

}  // namespace gqmm
