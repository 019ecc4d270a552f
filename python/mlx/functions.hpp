// The functions that replace MLX's. They have the same meaning and build a graph. They call MLX's own function if gqmm does not
// serve the call: on another device than the CPU, or with a type or mode that gqmm does not know.
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

/// The arguments of quantized_matmul and gather_qmm besides x, in MLX's types.
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
  /// Finds the packed copy of weights with these settings. The weights are w, scales and, if the mode has them, biases. It is
  /// empty if the caller keeps no copies.
  std::function<std::shared_ptr<PackedCopy>(std::vector<mx::array>, const WeightSettings&)> find_packed_copy = {};
  mx::StreamOrDevice stream = {};
};

mx::array quantized_matmul(const mx::array& x, const QuantizedArguments& arguments);
mx::array gather_qmm(const mx::array& x, const QuantizedArguments& arguments);
mx::array gather_mm(const mx::array& a, const mx::array& b, const std::optional<mx::array>& lhs_indices,
                    const std::optional<mx::array>& rhs_indices, bool sorted_indices, mx::StreamOrDevice stream);
mx::array matmul(const mx::array& a, const mx::array& b, mx::StreamOrDevice stream);
/// Makes beta · c + alpha · (a @ b). The product is rounded to its type before the sum.
mx::array addmm(const mx::array& c, const mx::array& a, const mx::array& b, float alpha, float beta, mx::StreamOrDevice stream);

/// The number of products that gqmm put into graphs, and the number of calls that went to MLX's function.
struct CallCounts {
  std::atomic<std::int64_t> ours = 0;
  std::atomic<std::int64_t> stock = 0;
};
struct FunctionCounts {
  CallCounts gather_qmm;
  CallCounts quantized_matmul;
  CallCounts gather_mm;
  CallCounts matmul;
  CallCounts moe_ffn;
  CallCounts rms_norm;
  CallCounts layer_norm;
  CallCounts softmax;
  CallCounts activations;
  CallCounts rope;
  CallCounts conv1d;
  CallCounts gated_delta_update;
  CallCounts ssm_update;
  CallCounts scaled_dot_product_attention;
  CallCounts quantized_scaled_dot_product_attention;
};
FunctionCounts& counts();

}  // namespace gqmm::mlx
