#include "ssm_arguments.hpp"

#include "functions.hpp"
#include "ssm.hpp"
#include "weight_arguments.hpp"

#include <mlx/utils.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/variant.h>

#include <optional>
#include <utility>

namespace gqmm::mlx {
namespace {

using namespace nb::literals;
using Results = std::pair<mx::array, mx::array>;

/// Calls the function with the arguments that Python gave.
template <auto function>
auto call(const mx::array& hidden_states, const mx::array& A_log, const mx::array& B, const mx::array& C, const mx::array& D,
          const mx::array& dt, const mx::array& dt_bias, const OptionalArray& state, std::pair<float, float> time_step_limit,
          const OptionalArray& mask, const OptionalArray& lengths, const mx::StreamOrDevice& stream) {
  const auto [smallest, largest] = time_step_limit;
  return function(SsmArguments{.hidden_states = hidden_states,
                               .A_log = A_log,
                               .B = B,
                               .C = C,
                               .D = D,
                               .dt = dt,
                               .dt_bias = dt_bias,
                               .state = state,
                               .time_step_limit = {.smallest = smallest, .largest = largest},
                               .mask = mask,
                               .lengths = lengths,
                               .stream = stream});
}

std::optional<Results> ssm_if_served(const SsmArguments& arguments) {
  if (!serves_ssm(arguments)) {
    ++counts().ssm_update.stock;
    return std::nullopt;
  }
  return ssm_update(arguments);
}

}  // namespace

void bind_ssm(nb::module_& m) {
  const std::pair limit(TimeStepLimit{}.smallest, TimeStepLimit{}.largest);
  m.def("ssm_update", &call<&ssm_update>, "hidden_states"_a, "A_log"_a, "B"_a, "C"_a, "D"_a, "dt"_a, "dt_bias"_a,
        "state"_a = nb::none(), "time_step_limit"_a = limit, "mask"_a = nb::none(), "lengths"_a = nb::none(), nb::kw_only(),
        "stream"_a = nb::none(),
        nb::sig("def ssm_update(hidden_states: mlx.core.array, A_log: mlx.core.array, B: mlx.core.array, C: mlx.core.array, "
                "D: mlx.core.array, dt: mlx.core.array, dt_bias: mlx.core.array, state: mlx.core.array | None = None, "
                "time_step_limit: tuple[float, float] = (0.001, 100.0), mask: mlx.core.array | None = None, "
                "lengths: mlx.core.array | None = None, *, stream: mlx.core.Stream | mlx.core.Device | None = None) "
                "-> tuple[mlx.core.array, mlx.core.array]"),
        R"(Walk through tokens with the recurrence of state space models, as gqmm.ssm_update does, with the same bits.

Args:
    hidden_states: float16, bfloat16 or float32, shape (B, T, H, Dh).
    A_log, D, dt_bias: likewise, shape (H,).
    B, C: likewise, shape (B, T, G, N). A group of B and C serves H / G consecutive heads.
    dt: likewise, shape (B, T, H).
    state: float32, shape (B, H, Dh, N). None stands for zeros.
    time_step_limit: the numbers between which time steps are clipped.
    mask: None, or bool, shape (B, T): the tokens that count. The others change no state, and their rows of y are zero.
    lengths: None, or integers, shape (B,): the number of tokens of each sequence. Those behind do not count either.
    stream: a stream or device of MLX. On another device than the CPU the recurrence is in MLX's own functions.

Returns:
    (y, state): lazy arrays of shape (B, T, H, Dh) and the type of hidden_states, or float32 if D has another type; and of shape
    (B, H, Dh, N) and type float32. MLX's functions compute their gradients, 256 tokens at once.

Raises:
    ValueError: shapes or types contradict each other.)");
  m.def("ssm_if_served", &call<&ssm_if_served>, "hidden_states"_a, "A_log"_a, "B"_a, "C"_a, "D"_a, "dt"_a, "dt_bias"_a,
        "state"_a.none(), "time_step_limit"_a, "mask"_a.none(), "lengths"_a.none(), "stream"_a = nb::none(),
        nb::sig("def ssm_if_served(hidden_states: mlx.core.array, A_log: mlx.core.array, B: mlx.core.array, C: mlx.core.array, "
                "D: mlx.core.array, dt: mlx.core.array, dt_bias: mlx.core.array, state: mlx.core.array | None, "
                "time_step_limit: tuple[float, float], mask: mlx.core.array | None, lengths: mlx.core.array | None, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> tuple[mlx.core.array, mlx.core.array] | None"),
        "The same. Returns None, and counts a call of MLX's, if gqmm does not compute it.");
}

}  // namespace gqmm::mlx
