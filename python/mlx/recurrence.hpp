// What the primitives of recurrences over tokens share. Their results are y and the state after the last token.
#pragma once

#include "composed.hpp"

#include <gqmm/infer.hpp>

#include <mlx/array.h>
#include <mlx/utils.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

class Recurrence : public Composed {
 public:
  /// `state` is the position of the state among the inputs, if there is one.
  Recurrence(mx::Stream stream, std::optional<std::size_t> state) : Composed(stream), state_(state) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) final;

 protected:
  /// Returns what computes y and the state of these inputs, later and on another thread.
  [[nodiscard]] virtual std::function<void(std::vector<mx::array>& results)> task_of(std::vector<mx::array> inputs) = 0;

 private:
  std::optional<std::size_t> state_;
};

/// y and the state, as the operators return them and as primitives do.
std::pair<mx::array, mx::array> as_pair(const std::vector<mx::array>& y_and_state);
std::vector<mx::array> as_vector(const std::pair<mx::array, mx::array>& y_and_state);

/// Makes y and the state of these types.
std::pair<mx::array, mx::array> make_results(const ResultType& y, const ResultType& state,
                                             const std::shared_ptr<Recurrence>& primitive, const std::vector<mx::array>& inputs);

/// The arrays and those of `optional` that are given.
std::vector<mx::array> with_given(std::vector<mx::array> arrays, const std::vector<std::optional<mx::array>>& optional);

/// An array with dimensions (B, T, …) where the mask is true, and `other` elsewhere.
mx::array where_counted(const mx::array& mask, const mx::array& a, float other, mx::Stream s);

}  // namespace gqmm::mlx
