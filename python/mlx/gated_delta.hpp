// The gated delta rule over arrays of MLX.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>
#include <utility>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// The arguments of the gated delta rule. Shapes are those of gqmm::gated_delta_update.
struct GatedDeltaArguments {
  mx::array q;
  mx::array k;
  mx::array v;
  mx::array g;
  mx::array beta;
  std::optional<mx::array> state = {};
  std::optional<mx::array> mask = {};
  mx::StreamOrDevice stream = {};
};

/// Makes y and the state after the last token, as gqmm::gated_delta_update computes them. On another device than the CPU they are
/// in MLX's functions. Throws std::invalid_argument for arguments that contradict each other.
std::pair<mx::array, mx::array> gated_delta_update(const GatedDeltaArguments& arguments);

/// Whether gqmm computes it, on the CPU, with the types that MLX's function gives its results. Where q, k and v have several
/// types, MLX's function rounds some of them.
bool serves_gated_delta(const GatedDeltaArguments& arguments);

}  // namespace gqmm::mlx
