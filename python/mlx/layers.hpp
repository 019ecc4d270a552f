// Norms, softmax and rope over arrays of MLX.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>
#include <variant>
#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Makes mx.fast.rms_norm as gqmm::rms_norm computes it. It calls MLX's function for another device than the CPU, and for types
/// that gqmm does not know.
mx::array rms_norm(const mx::array& x, const std::optional<mx::array>& weight, float eps, mx::StreamOrDevice stream);

/// Makes mx.fast.layer_norm likewise.
mx::array layer_norm(const mx::array& x, const std::optional<mx::array>& weight, const std::optional<mx::array>& bias, float eps,
                     mx::StreamOrDevice stream);

/// Makes mx.softmax likewise. `precise` matters to MLX's function alone.
mx::array softmax(const mx::array& x, const std::vector<int>& axes, bool precise, mx::StreamOrDevice stream);

/// The arguments of rope besides x.
struct RopeArguments {
  int dims = 0;
  bool traditional = false;
  std::optional<float> base = {};
  float scale = 1;
  std::variant<int, mx::array> offset = 0;
  std::optional<mx::array> freqs = {};
  mx::StreamOrDevice stream = {};
};

/// Makes mx.fast.rope likewise. MLX's function also takes what gqmm::rope refuses, and gives the error.
mx::array rope(const mx::array& x, const RopeArguments& arguments);

}  // namespace gqmm::mlx
