#include "recurrence.hpp"

#include "arrays.hpp"
#include "indexing.hpp"
#include "product.hpp"

#include <mlx/ops.h>

#include <algorithm>

namespace gqmm::mlx {
namespace {

/// Gives the memory of the state to the new one, if nothing else needs it. A token then reads and writes one state and not two.
/// Each output of a primitive holds the inputs, so the other outputs count as users of the state's memory. They let go of it for
/// the question whether it may be given away. No transform may trace the outputs, because it would need the state.
void reuse_memory(const std::vector<mx::array>& inputs, const mx::array& state, std::vector<mx::array>& outputs,
                  mx::array& next) {
  if (std::any_of(outputs.begin(), outputs.end(), [](const mx::array& output) { return output.is_tracer(); })) {
    return;
  }
  const auto for_each_other = [&](const auto& function) {
    for (mx::array& output : outputs) {
      if (&output.inputs() != &inputs) {
        function(output.inputs());
      }
    }
  };
  for_each_other([](std::vector<mx::array>& held) { held.clear(); });
  if (state.is_donatable() && state.flags().row_contiguous && state.data_size() == state.size()) {
    next.copy_shared_buffer(state);
  }
  for_each_other([&](std::vector<mx::array>& held) { held = inputs; });  // a vector that has been cleared has room for them
}

}  // namespace

void Recurrence::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  if (state_) {
    reuse_memory(inputs, inputs[*state_], outputs, outputs[1]);
  }
  evaluate_on_stream(stream(), inputs, outputs, task_of(weak_copies(inputs)));
}

std::pair<mx::array, mx::array> as_pair(const std::vector<mx::array>& y_and_state) { return {y_and_state[0], y_and_state[1]}; }
std::vector<mx::array> as_vector(const std::pair<mx::array, mx::array>& y_and_state) {
  return {y_and_state.first, y_and_state.second};
}

std::pair<mx::array, mx::array> make_results(const ResultType& y, const ResultType& state,
                                             const std::shared_ptr<Recurrence>& primitive, const std::vector<mx::array>& inputs) {
  const auto shape = [](const ResultType& type) { return mx::Shape(type.shape.begin(), type.shape.end()); };
  return as_pair(
      mx::array::make_arrays({shape(y), shape(state)}, {mlx_dtype(y.dtype), mlx_dtype(state.dtype)}, primitive, inputs));
}

std::vector<mx::array> with_given(std::vector<mx::array> arrays, const std::vector<std::optional<mx::array>>& optional) {
  for (const std::optional<mx::array>& given : optional) {
    if (given) {
      arrays.push_back(*given);
    }
  }
  return arrays;
}

mx::array where_counted(const mx::array& mask, const mx::array& a, float other, mx::Stream s) {
  const mx::array counted = mx::reshape(mask, concatenate(mask.shape(), mx::Shape(a.ndim() - 2, 1)), s);
  return mx::where(counted, a, mx::array(other, a.dtype()), s);
}

}  // namespace gqmm::mlx
