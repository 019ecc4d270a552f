// The recurrence of state space models over arrays of MLX.
#pragma once

#include <gqmm/ssm.hpp>

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>
#include <utility>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// The arguments of the recurrence. Shapes are those of gqmm::ssm_update.
struct SsmArguments {
  mx::array hidden_states;
  mx::array A_log;
  mx::array B;
  mx::array C;
  mx::array D;
  mx::array dt;
  mx::array dt_bias;
  std::optional<mx::array> state = {};
  TimeStepLimit time_step_limit = {};
  std::optional<mx::array> mask = {};
  std::optional<mx::array> lengths = {};
  mx::StreamOrDevice stream = {};
};

/// Makes y and the state after the last token, as gqmm::ssm_update computes them. On another device than the CPU they are in
/// MLX's functions. Throws std::invalid_argument for arguments that contradict each other.
std::pair<mx::array, mx::array> ssm_update(const SsmArguments& arguments);

/// Whether gqmm computes it, on the CPU.
bool serves_ssm(const SsmArguments& arguments);

}  // namespace gqmm::mlx
