#include "grouped.hpp"

#include "arrays.hpp"
#include "composed.hpp"
#include "evaluation_errors.hpp"
#include "indexing.hpp"
#include "product.hpp"

#include <gqmm/infer.hpp>

#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace gqmm::mlx {
namespace {

using Arrays = std::vector<mx::array>;

// --- The experts of rows -------------------------------------------------------------------------------------------------

/// A primitive whose only input is offsets and whose result is the expert of each row, or -1. The evaluation fails for offsets
/// that gqmm refuses. The result then is -1 for all rows, which tasks that read it all the same refuse or skip.
class ExpertsOfRows final : public mx::UnaryPrimitive {
 public:
  ExpertsOfRows(mx::Stream stream, const GroupedRows& grouped, bool knows_offsets)
      : UnaryPrimitive(stream), grouped_(grouped), knows_offsets_(knows_offsets) {}

  [[nodiscard]] const char* name() const override { return "GqmmExpertsOfRows"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    const GroupedRows& that = static_cast<const ExpertsOfRows&>(other).grouped_;
    return grouped_.op == that.op && grouped_.rows == that.rows && grouped_.experts == that.experts &&
           grouped_.behind == that.behind;
  }
  std::vector<mx::Shape> output_shapes(const Arrays&) override { return {{static_cast<int>(grouped_.rows)}}; }

  void eval_cpu(const Arrays& inputs, mx::array& out) override {
    if (knows_offsets_) {
      check_known([&] { std::ignore = gqmm::experts_of_rows(view_of(inputs.front()), grouped_); });
    }
    evaluate_on_stream(stream(), inputs, out,
                       [grouped = grouped_, offsets = mx::array::unsafe_weak_copy(inputs.front())](mx::array& y) {
                         const std::vector<std::int64_t> experts = gqmm::experts_of_rows(view_of(offsets), grouped);
                         std::copy(experts.begin(), experts.end(), y.data<std::int64_t>());
                       });
  }
  void eval_gpu(const Arrays&, mx::array&) override { throw std::runtime_error("GqmmExpertsOfRows runs on the CPU only."); }

  Arrays jvp(const Arrays& primals, const Arrays&, const std::vector<int>&) override {
    return {mx::zeros(output_shapes(primals).front(), mx::int64, stream())};
  }
  /// Each element of the batch is computed alone. Offsets are few, and rows of all elements then share one product.
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    const mx::Stream s = stream();
    const mx::array batch = mx::moveaxis(inputs.front(), axes.front(), 0, s);
    Arrays each;
    for (int i = 0; i < batch.shape(0); ++i) {
      each.push_back(experts_of_rows(mx::take(batch, i, 0, s), grouped_, s));
    }
    const mx::Shape none = concatenate({0}, output_shapes(inputs).front());
    return {{each.empty() ? mx::zeros(none, mx::int64, s) : mx::stack(each, 0, s)}, {0}};
  }

  static mx::array experts_of_rows(const mx::array& offsets, const GroupedRows& grouped, mx::Stream s) {
    return mx::array({static_cast<int>(grouped.rows)}, mx::int64, std::make_shared<ExpertsOfRows>(s, grouped, is_known(offsets)),
                     {offsets});
  }

 private:
  GroupedRows grouped_;  // its name is a literal
  bool knows_offsets_;
};

/// Computes `product(rows, experts)` for rows (R, 1, K) and experts (R,), and drops the middle dimension of the result. Rows
/// behind the last group take part as zeros, so nothing of them reaches a result or a gradient.
mx::array of_groups(const char* op, const mx::array& x, std::int64_t experts, const mx::array& offsets, Missing behind,
                    mx::Stream s, const std::function<mx::array(const mx::array&, const mx::array&)>& product) {
  const GroupedRows grouped = {.op = op, .rows = x.shape(0), .experts = experts, .behind = behind};
  gqmm::check_offsets(outline_of(offsets), grouped);
  const mx::array ids = ExpertsOfRows::experts_of_rows(offsets, grouped, s);
  const mx::array rows = mx::expand_dims(x, 1, s);
  if (behind == Missing::error) {
    return mx::squeeze(product(rows, ids), 1, s);
  }
  const mx::array zero(std::int64_t{0});
  const mx::array here = mx::expand_dims(mx::greater_equal(ids, zero, s), {1, 2}, s);
  const mx::array y = product(mx::where(here, rows, mx::zeros_like(rows, s), s), mx::maximum(ids, zero, s));
  return mx::squeeze(mx::where(here, y, mx::zeros_like(y, s), s), 1, s);
}

void check_rank(const char* op, const char* name, const mx::array& a, std::size_t rank, const char* wanted) {
  if (a.ndim() != rank) {
    const Shape shape(a.shape().begin(), a.shape().end());
    throw std::invalid_argument(std::string("[") + op + "] " + name + " has shape " + to_string(shape) + "; it must be " +
                                wanted);
  }
}

// --- The sum of the slots ----------------------------------------------------------------------------------------------------

/// The sum in MLX's functions.
mx::array sum_of_slots(const Arrays& inputs, mx::Stream s) {
  const mx::array& slots = inputs[0];
  const mx::array weights = mx::expand_dims(mx::astype(inputs[1], mx::float32, s), -1, s);
  const mx::array sum = mx::sum(mx::multiply(mx::astype(slots, mx::float32, s), weights, s), -2, false, s);
  return mx::astype(sum, slots.dtype(), s);
}

class Combine final : public Composed {
 public:
  using Composed::Composed;

  [[nodiscard]] const char* name() const override { return "GqmmMoeCombine"; }
  [[nodiscard]] bool is_equivalent(const Primitive&) const override { return true; }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    const Shape shape = infer_moe_combine(outline_of(inputs[0]), outline_of(inputs[1])).shape;
    return {mx::Shape(shape.begin(), shape.end())};
  }
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    evaluate_on_stream(stream(), inputs, outputs.front(), [weak = weak_copies(inputs)](mx::array& y) {
      gqmm::moe_combine(view_of(weak[0]), view_of(weak[1]), {.out = writable_view_of(y)});
    });
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    const Arrays moved = batch_in_front(inputs, axes, inputs.size(), stream());
    return {{moe_combine(moved[0], moved[1], stream())}, {0}};
  }

 protected:
  Arrays composed(const Arrays& inputs) override { return {sum_of_slots(inputs, stream())}; }
};

}  // namespace

mx::array grouped_qmm(const mx::array& x, const QuantizedArguments& weights, const mx::array& offsets, Missing rows) {
  constexpr const char* op = "grouped_qmm";
  check_rank(op, "x", x, 2, "(R, K)");
  check_rank(op, "w", weights.w, 3, "(E, …), the codes of a matrix for each expert");
  const mx::Stream s = mx::to_stream(weights.stream);
  return of_groups(op, x, weights.w.shape(0), offsets, rows, s, [&](const mx::array& sorted, const mx::array& ids) {
    QuantizedArguments arguments = weights;
    arguments.rhs_indices = ids;
    return mlx::gather_qmm(sorted, arguments);
  });
}

mx::array grouped_mm(const mx::array& x, const mx::array& b, const mx::array& offsets, Missing rows, mx::StreamOrDevice stream) {
  constexpr const char* op = "grouped_mm";
  check_rank(op, "x", x, 2, "(R, K)");
  check_rank(op, "b", b, 3, "(E, K, N)");
  const mx::Stream s = mx::to_stream(stream);
  return of_groups(op, x, b.shape(0), offsets, rows, s, [&](const mx::array& sorted, const mx::array& ids) {
    return mlx::gather_mm(sorted, b, std::nullopt, ids, false, s);
  });
}

mx::array moe_combine(const mx::array& slots, const mx::array& topk_weights, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  const ResultType result = infer_moe_combine(outline_of(slots), outline_of(topk_weights));
  if (!is_on_cpu(s)) {
    return sum_of_slots({slots, topk_weights}, s);
  }
  return mx::array({result.shape.begin(), result.shape.end()}, mlx_dtype(result.dtype), std::make_shared<Combine>(s),
                   {slots, topk_weights});
}

}  // namespace gqmm::mlx
