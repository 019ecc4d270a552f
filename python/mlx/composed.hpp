// The base class of primitives that are one call of gqmm, and whose transforms are those of the same thing in other functions.
#pragma once

#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

class Composed : public mx::Primitive {
 public:
  explicit Composed(mx::Stream stream);

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) final;
  // The forward is computed again for these, so nothing is kept from it.
  std::vector<mx::array> jvp(const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
                             const std::vector<int>& argnums) final;
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override;
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override;

 protected:
  /// Makes the same results of functions that have all transforms.
  virtual std::vector<mx::array> composed(const std::vector<mx::array>& inputs) = 0;
};

/// Some of the arrays, by their positions.
std::vector<mx::array> selected(const std::vector<mx::array>& arrays, const std::vector<int>& positions);

/// A function of arrays.
using ArrayFunction = std::function<std::vector<mx::array>(const std::vector<mx::array>&)>;
/// The function of all arrays as a function of those at the positions. The others keep their values.
ArrayFunction function_of(const std::vector<mx::array>& arrays, const std::vector<int>& positions, ArrayFunction of_all);

/// Gives the first `count` inputs the batch dimension of a vmap in front; those without one are repeated along it.
std::vector<mx::array> batch_in_front(std::vector<mx::array> inputs, const std::vector<int>& axes, std::size_t count,
                                      mx::Stream s);

/// Makes one batch of the two batches of a vmap, calls function(inputs) with it, and divides the results again, with the batch of
/// the vmap in front. The first dimension of each input is a batch, but of those at the positions `shared`, which must have no
/// axis.
std::vector<mx::array> one_call_for_both_batches(const std::vector<mx::array>& inputs, const std::vector<int>& axes,
                                                 const std::vector<std::size_t>& shared, mx::Stream s,
                                                 const ArrayFunction& function);

/// Calls function(inputs of one) for each element of the batch of a vmap, and stacks the results in front.
template <class Function>
mx::array stack_of_calls(const std::vector<mx::array>& inputs, const std::vector<int>& axes, mx::Stream s,
                         const Function& function) {
  const std::vector<mx::array> moved = batch_in_front(inputs, axes, inputs.size(), s);
  const auto call = [&](const auto& element_of) {
    std::vector<mx::array> one;
    one.reserve(moved.size());
    for (const mx::array& input : moved) {
      one.push_back(element_of(input));
    }
    return function(one);
  };
  const int batch = moved.front().shape(0);
  if (batch == 0) {  // the result has the shape and type that it would have of anything, and no element
    const mx::array like = call(
        [&](const mx::array& input) { return mx::zeros({input.shape().begin() + 1, input.shape().end()}, input.dtype(), s); });
    mx::Shape shape = like.shape();
    shape.insert(shape.begin(), 0);
    return mx::zeros(shape, like.dtype(), s);
  }
  std::vector<mx::array> results;
  for (int i = 0; i < batch; ++i) {
    results.push_back(call([&](const mx::array& input) { return mx::take(input, i, 0, s); }));
  }
  return mx::stack(results, 0, s);
}

}  // namespace gqmm::mlx
