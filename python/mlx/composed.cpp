#include "composed.hpp"

#include "indexing.hpp"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <functional>
#include <stdexcept>
#include <string>

namespace gqmm::mlx {
namespace {

std::vector<mx::array> selected(const std::vector<mx::array>& primals, const std::vector<int>& argnums) {
  std::vector<mx::array> some;
  some.reserve(argnums.size());
  for (const int argnum : argnums) {
    some.push_back(primals[static_cast<std::size_t>(argnum)]);
  }
  return some;
}

/// The function of all inputs as a function of some.
std::function<std::vector<mx::array>(const std::vector<mx::array>&)> function_of(
    const std::vector<mx::array>& primals, const std::vector<int>& argnums,
    std::function<mx::array(const std::vector<mx::array>&)> of_all) {
  return [primals, argnums, of_all = std::move(of_all)](const std::vector<mx::array>& some) {
    std::vector<mx::array> inputs = primals;
    for (std::size_t i = 0; i < argnums.size(); ++i) {
      inputs[static_cast<std::size_t>(argnums[i])] = some[i];
    }
    return std::vector<mx::array>{of_all(inputs)};
  };
}

}  // namespace

void Composed::eval_gpu(const std::vector<mx::array>&, mx::array&) {
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

}  // namespace gqmm::mlx
