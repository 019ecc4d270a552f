// The functions that take the place of MLX's: of the same meaning, building a graph. What gqmm does not serve (another device, a
// type or mode that it does not know) is MLX's own function.
#pragma once

#include "packed_copy.hpp"

#include <gqmm/types.hpp>

#include <mlx/array.h>
#include <mlx/utils.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Arguments of quantized_matmul and gather_qmm beside x, in MLX's types.
struct QuantizedArguments {
  mx::array w;
  mx::array scales;
  std::optional<mx::array> biases = {};
  std::optional<mx::array> lhs_indices = {};
  std::optional<mx::array> rhs_indices = {};
  bool transpose = true;
  std::optional<int> group_size = {};
  std::optional<int> bits = {};
  std::string mode = "affine";
  std::optional<mx::array> global_scale = {};
  bool sorted_indices = false;
  Precision precision = Precision::standard;
  /// The packed copy of these weights (w, scales, biases if there are) with these settings, where the caller keeps copies.
  std::function<std::shared_ptr<PackedCopy>(std::vector<mx::array>, const PackOptions&)> find_packed_copy = {};
  mx::StreamOrDevice stream = {};
};

mx::array quantized_matmul(const mx::array& x, const QuantizedArguments& arguments);
mx::array gather_qmm(const mx::array& x, const QuantizedArguments& arguments);
mx::array gather_mm(const mx::array& a, const mx::array& b, const std::optional<mx::array>& lhs_indices,
                    const std::optional<mx::array>& rhs_indices, bool sorted_indices, mx::StreamOrDevice stream);

/// How many products gqmm put into graphs, and how many calls went to MLX's function.
struct CallCounts {
  std::atomic<std::int64_t> ours = 0;
  std::atomic<std::int64_t> stock = 0;
};
struct FunctionCounts {
  CallCounts gather_qmm;
  CallCounts quantized_matmul;
  CallCounts gather_mm;
};
FunctionCounts& counts();

}  // namespace gqmm::mlx
