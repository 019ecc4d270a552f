#include "composed.hpp"

#include "evaluation_errors.hpp"
#include "indexing.hpp"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <stdexcept>
#include <string>

namespace gqmm::mlx {

std::vector<mx::array> selected(const std::vector<mx::array>& arrays, const std::vector<int>& positions) {
  std::vector<mx::array> some;
  some.reserve(positions.size());
  for (const int position : positions) {
    some.push_back(arrays[static_cast<std::size_t>(position)]);
  }
  return some;
}

ArrayFunction function_of(const std::vector<mx::array>& arrays, const std::vector<int>& positions, ArrayFunction of_all) {
  return [arrays, positions, of_all = std::move(of_all)](const std::vector<mx::array>& some) {
    std::vector<mx::array> inputs = arrays;
    for (std::size_t i = 0; i < positions.size(); ++i) {
      inputs[static_cast<std::size_t>(positions[i])] = some[i];
    }
    return of_all(inputs);
  };
}

Composed::Composed(mx::Stream stream) : Primitive(stream) { settle_after_errors(stream); }

void Composed::eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) {
  throw std::runtime_error(std::string(name()) + " runs on the CPU only.");
}

std::vector<mx::array> Composed::jvp(const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
                                     const std::vector<int>& argnums) {
  const auto all = [this](const std::vector<mx::array>& inputs) { return composed(inputs); };
  return mx::jvp(function_of(primals, argnums, all), selected(primals, argnums), tangents).second;
}

std::vector<mx::array> Composed::vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                                     const std::vector<int>& argnums, const std::vector<mx::array>&) {
  const auto all = [this](const std::vector<mx::array>& inputs) { return composed(inputs); };
  return mx::vjp(function_of(primals, argnums, all), selected(primals, argnums), cotangents).second;
}

std::pair<std::vector<mx::array>, std::vector<int>> Composed::vmap(const std::vector<mx::array>& inputs,
                                                                   const std::vector<int>& axes) {
  const auto all = [this](const std::vector<mx::array>& arrays) { return composed(arrays); };
  std::vector<mx::array> results = mx::vmap(all, axes)(inputs);
  std::vector<int> fronts(results.size(), 0);
  return {std::move(results), std::move(fronts)};
}

std::vector<mx::array> batch_in_front(std::vector<mx::array> inputs, const std::vector<int>& axes, std::size_t count,
                                      mx::Stream s) {
  int batch = 0;
  for (std::size_t i = 0; i < count; ++i) {
    batch = axes[i] >= 0 ? inputs[i].shape(axes[i]) : batch;
  }
  for (std::size_t i = 0; i < count; ++i) {
    inputs[i] = axes[i] >= 0 ? mx::moveaxis(inputs[i], axes[i], 0, s)
                             : mx::broadcast_to(inputs[i], concatenate({batch}, inputs[i].shape()), s);
  }
  return inputs;
}

std::vector<mx::array> one_call_for_both_batches(const std::vector<mx::array>& inputs, const std::vector<int>& axes,
                                                 const std::vector<std::size_t>& shared, mx::Stream s,
                                                 const ArrayFunction& function) {
  std::vector<mx::array> moved = batch_in_front(inputs, axes, inputs.size(), s);
  const mx::Shape batches = {moved[0].shape(0), moved[0].shape(1)};
  for (mx::array& input : moved) {
    input = mx::flatten(input, 0, 1, s);
  }
  for (const std::size_t i : shared) {
    moved[i] = inputs[i];
  }
  std::vector<mx::array> results = function(moved);
  for (mx::array& result : results) {
    result = mx::unflatten(result, 0, batches, s);
  }
  return results;
}

}  // namespace gqmm::mlx
