// moe_combine, the weighted sum of slots.
#include "cpu/combine.hpp"

#include "api/check.hpp"
#include "api/output.hpp"
#include "arrays/views.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/infer.hpp>
#include <gqmm/moe.hpp>

#include <algorithm>
#include <cstddef>
#include <utility>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view combine_op = "moe_combine";

void check_operands(const array& slots, const array& topk_weights) {
  check_compute_float(combine_op, "slots", slots);
  check_compute_float(combine_op, "topk_weights", topk_weights);
  if (slots.rank() < 2) {
    fail(combine_op, "slots of shape {} has fewer than two dimensions; pass (…, k, H), a row for each slot of a token",
         to_string(slots.shape()));
  }
  const Shape expected(slots.shape().begin(), slots.shape().end() - 1);
  if (topk_weights.shape() != expected) {
    fail(combine_op, "slots has shape {} but topk_weights has shape {}; it must be {}, a weight for each slot",
         to_string(slots.shape()), to_string(topk_weights.shape()), to_string(expected));
  }
}

}  // namespace

ResultType infer_moe_combine(const array& slots, const array& topk_weights, const MoeCombineOptions& options) {
  check_operands(slots, topk_weights);
  check_stream(combine_op, options.stream);
  Shape shape = leading_shape(slots);
  shape.push_back(slots.dim(-1));
  return {std::move(shape), slots.dtype()};
}

array moe_combine(const array& slots, const array& topk_weights, const MoeCombineOptions& options) {
  const threads::NodeBinding binding(options.stream);
  const ResultType type = infer_moe_combine(slots, topk_weights, options);
  const NamedOperand operands[] = {{"slots", &slots}, {"topk_weights", &topk_weights}};
  array result = make_result(combine_op, type.shape, type.dtype, options.out, operands);
  if (slots.size() == 0) {
    std::fill_n(result.mutable_bytes(), result.nbytes(), std::byte{0});  // these are the bits of +0
  } else {
    cpu::combine({.slots = MatrixBatch(slots),
                  .weights = MatrixBatch(as_matrices(topk_weights)),
                  .y = result.mutable_bytes(),
                  .threads = options.stream.threads});
  }
  return result;
}

}  // namespace gqmm
