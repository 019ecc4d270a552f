// The base class of primitives that are one call of gqmm, and whose transforms are those of the same thing in other functions.
#pragma once

#include <mlx/primitives.h>

#include <cstddef>
#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

class Composed : public mx::UnaryPrimitive {
 public:
  using UnaryPrimitive::UnaryPrimitive;

  void eval_gpu(const std::vector<mx::array>& inputs, mx::array& out) final;
  // The forward is computed again for these, so nothing is kept from it.
  std::vector<mx::array> jvp(const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
                             const std::vector<int>& argnums) final;
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& outputs) final;

 protected:
  /// Makes the same result of functions that have all transforms.
  virtual mx::array composed(const std::vector<mx::array>& inputs) = 0;
};

/// Gives the first `count` inputs the batch dimension of a vmap in front; those without one are repeated along it.
std::vector<mx::array> batch_in_front(std::vector<mx::array> inputs, const std::vector<int>& axes, std::size_t count,
                                      mx::Stream s);

}  // namespace gqmm::mlx
