// scaled_dot_product_attention: the checks of its arguments.
#include "cpu/attention.hpp"

#include "api/broadcast.hpp"
#include "api/check.hpp"
#include "api/indices.hpp"
#include "api/loaded_values.hpp"
#include "api/lower.hpp"
#include "api/output.hpp"
#include "arrays/views.hpp"

#include <gqmm/attention.hpp>
#include <gqmm/infer.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view attention_op = "scaled_dot_product_attention";
constexpr std::int64_t largest_depth = std::int64_t{1} << 20;  // kernels count the elements of a head in int
constexpr std::int64_t farthest_origin = std::int64_t{1} << 62;

void check_heads(std::string_view name, const array& a) {
  check_compute_float(attention_op, name, a);
  if (a.rank() != 4) {
    fail(attention_op, "{} has shape {}; it must have four dimensions, (batch, heads, length, depth)", name,
         to_string(a.shape()));
  }
  if (a.dim(3) < 1 || a.dim(3) > largest_depth) {
    fail(attention_op, "{} has shape {}; its last dimension must be 1 … {}", name, to_string(a.shape()), largest_depth);
  }
}

void check_operands(const array& q, const array& k, const array& v, float scale) {
  check_heads("q", q);
  check_heads("k", k);
  check_heads("v", v);
  if (k.dim(0) != q.dim(0) || v.dim(0) != q.dim(0)) {
    fail(attention_op, "q, k and v have batches of {}, {} and {}; they must be equal", q.dim(0), k.dim(0), v.dim(0));
  }
  if (k.dim(3) != q.dim(3)) {
    fail(attention_op, "q has shape {} but k has shape {}; their last dimensions must be equal", to_string(q.shape()),
         to_string(k.shape()));
  }
  if (v.dim(1) != k.dim(1) || v.dim(2) != k.dim(2)) {
    fail(attention_op, "k has shape {} but v has shape {}; heads and lengths must be equal", to_string(k.shape()),
         to_string(v.shape()));
  }
  if (k.dim(1) == 0 ? q.dim(1) != 0 : q.dim(1) % k.dim(1) != 0) {
    fail(attention_op, "q has {} heads but k and v have {}; q must have a multiple of them", q.dim(1), k.dim(1));
  }
  if (!std::isfinite(scale)) {
    fail(attention_op, "scale = {} is not finite; pass a number such as 1 / sqrt({})", scale, q.dim(3));
  }
}

MaskKind mask_kind_of(const AttentionMask& mask, const Shape& scores) {
  if (std::holds_alternative<std::monostate>(mask)) {
    return MaskKind::none;
  }
  if (std::holds_alternative<CausalMask>(mask)) {
    return MaskKind::causal;
  }
  const array& given = std::get<array>(mask);
  if (given.dtype() != Dtype::bool_ && !is_compute_float(given.dtype())) {
    fail(attention_op, "mask is {}; it must be bool, float16, bfloat16 or float32", name_of(given.dtype()));
  }
  if (broadcast_shapes(given.shape(), scores) != scores) {
    fail(attention_op, "mask of shape {} does not broadcast to {}, (batch, heads of q, queries, keys)", to_string(given.shape()),
         to_string(scores));
  }
  return given.dtype() == Dtype::bool_ ? MaskKind::boolean : MaskKind::additive;
}

void check_sinks(const std::optional<array>& sinks, std::int64_t heads) {
  if (!sinks) {
    return;
  }
  check_compute_float(attention_op, "sinks", *sinks);
  if (sinks->shape() != Shape{heads}) {
    fail(attention_op, "sinks has shape {}; it must be ({},), a score for each head of q", to_string(sinks->shape()), heads);
  }
}

void check_origin(const std::optional<array>& origin, std::int64_t batch) {
  if (!origin) {
    return;
  }
  check_integer(attention_op, "origin", *origin);
  if (origin->shape() != Shape{batch}) {
    fail(attention_op, "origin has shape {}; it must be ({},), an index for each batch element", to_string(origin->shape()),
         batch);
  }
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

std::vector<std::int64_t> load_origins(const std::optional<array>& origin, std::int64_t batch) {
  std::vector<std::int64_t> values(static_cast<std::size_t>(batch), 0);
  for (std::int64_t b = 0; origin && b < batch; ++b) {
    const std::optional<std::int64_t> value = load_integer(origin->bytes() + b * origin->strides()[0], origin->dtype());
    if (!value || *value < -farthest_origin || *value > farthest_origin) {
      fail(attention_op, "origin[{}] = {} is not within ±2^62; pass the index of the key at position 0", b,
           value ? std::to_string(*value) : "a number beyond 2^63");
    }
    values[static_cast<std::size_t>(b)] = *value;
  }
  return values;
}

}  // namespace

ResultType infer_scaled_dot_product_attention(const array& q, const array& k, const array& v, float scale,
                                              const AttentionOptions& options) {
  check_operands(q, k, v, scale);
  static_cast<void>(mask_kind_of(options.mask, {q.dim(0), q.dim(1), q.dim(2), k.dim(2)}));
  check_sinks(options.sinks, q.dim(1));
  check_origin(options.origin, q.dim(0));
  check_stream(attention_op, options.stream);
  return {{q.dim(0), q.dim(1), q.dim(2), v.dim(3)}, promote(promote(q.dtype(), k.dtype()), v.dtype())};
}

namespace detail {

LoweredAttention lower_attention(const array& q, const array& k, const array& v, float scale, const AttentionOptions& options) {
  const ResultType type = infer_scaled_dot_product_attention(q, k, v, scale, options);
  const array* const mask = std::get_if<array>(&options.mask);
  const NamedOperand operands[] = {{"q", &q},
                                   {"k", &k},
                                   {"v", &v},
                                   {"mask", mask},
                                   {"sinks", options.sinks ? &*options.sinks : nullptr},
                                   {"origin", options.origin ? &*options.origin : nullptr}};
  const Shape scores = {q.dim(0), q.dim(1), q.dim(2), k.dim(2)};
  std::vector<std::int64_t> origin = load_origins(options.origin, q.dim(0));
  LoweredAttention lowered;
  lowered.result = make_result(attention_op, type.shape, type.dtype, options.out, operands);
  if (lowered.result.size() == 0 || k.dim(2) == 0) {
    return lowered;
  }
  lowered.problem = {.batch = q.dim(0),
                     .q_heads = q.dim(1),
                     .kv_heads = k.dim(1),
                     .q = MatrixBatch(q),
                     .k = lowered.contiguous(k),
                     .v = lowered.contiguous(v),
                     .scale = scale,
                     .mask_kind = mask_kind_of(options.mask, scores),
                     .mask = {},
                     .mask_differs_by_head = false,
                     .sinks = options.sinks ? load_vector(*options.sinks) : std::vector<float>(),
                     .origin = std::move(origin),
                     .y = lowered.result.mutable_bytes(),
                     .y_dtype = type.dtype,
                     .threads = options.stream.threads};
  if (mask != nullptr) {
    const array whole = broadcast_mask(*mask, scores);
    lowered.problem.mask = MatrixBatch(whole);
    lowered.problem.mask_differs_by_head = whole.strides()[1] != 0;
  }
  return lowered;
}

}  // namespace detail

array scaled_dot_product_attention(const array& q, const array& k, const array& v, float scale, const AttentionOptions& options) {
  LoweredAttention lowered = lower_attention(q, k, v, scale, options);
  array& result = lowered.result;
  if (lowered.problem.y != nullptr) {
    cpu::attend(lowered.problem);
  } else {
    std::fill_n(result.mutable_bytes(), result.nbytes(), std::byte{0});  // without keys, the sum of no values
  }
  return result;
}

}  // namespace gqmm
