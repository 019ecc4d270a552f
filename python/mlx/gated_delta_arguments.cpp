#include "gated_delta_arguments.hpp"

#include "functions.hpp"
#include "gated_delta.hpp"
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

Results call_gated_delta(const mx::array& q, const mx::array& k, const mx::array& v, const mx::array& g, const mx::array& beta,
                         const OptionalArray& state, const OptionalArray& mask, const mx::StreamOrDevice& stream) {
  return gated_delta_update({.q = q, .k = k, .v = v, .g = g, .beta = beta, .state = state, .mask = mask, .stream = stream});
}

std::optional<Results> gated_delta_if_served(const mx::array& q, const mx::array& k, const mx::array& v, const mx::array& g,
                                             const mx::array& beta, const OptionalArray& state, const OptionalArray& mask,
                                             const mx::StreamOrDevice& stream) {
  const GatedDeltaArguments arguments = {
      .q = q, .k = k, .v = v, .g = g, .beta = beta, .state = state, .mask = mask, .stream = stream};
  if (!serves_gated_delta(arguments)) {
    ++counts().gated_delta_update.stock;
    return std::nullopt;
  }
  return gated_delta_update(arguments);
}

}  // namespace

void bind_gated_delta(nb::module_& m) {
  m.def("gated_delta_update", &call_gated_delta, "q"_a, "k"_a, "v"_a, "g"_a, "beta"_a, "state"_a = nb::none(),
        "mask"_a = nb::none(), nb::kw_only(), "stream"_a = nb::none(),
        nb::sig("def gated_delta_update(q: mlx.core.array, k: mlx.core.array, v: mlx.core.array, g: mlx.core.array, "
                "beta: mlx.core.array, state: mlx.core.array | None = None, mask: mlx.core.array | None = None, *, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> tuple[mlx.core.array, mlx.core.array]"),
        R"(Walk through tokens with the gated delta rule, as gqmm.gated_delta_update does, with the same bits.

Args:
    q, k: float16, bfloat16 or float32, shape (B, T, Hk, Dk).
    v: likewise, shape (B, T, Hv, Dv). A head of q and k serves Hv / Hk consecutive heads of v.
    g: the factor of decay, likewise, shape (B, T, Hv), or (B, T, Hv, Dk) with a factor for each element of k.
    beta: the factor of what is written, likewise, shape (B, T, Hv).
    state: float32, shape (B, Hv, Dv, Dk). None stands for zeros.
    mask: None, or bool, shape (B, T): the tokens that count. The others change no state, and their rows of y are zero.
    stream: a stream or device of MLX. On another device than the CPU the rule is in MLX's own functions.

Returns:
    (y, state): lazy arrays of shape (B, T, Hv, Dv) and q's type, and of shape (B, Hv, Dv, Dk) and type float32. MLX's functions
    compute their gradients, token by token.

Raises:
    ValueError: shapes or types contradict each other.)");
  m.def("gated_delta_if_served", &gated_delta_if_served, "q"_a, "k"_a, "v"_a, "g"_a, "beta"_a, "state"_a = nb::none(),
        "mask"_a = nb::none(), "stream"_a = nb::none(),
        nb::sig("def gated_delta_if_served(q: mlx.core.array, k: mlx.core.array, v: mlx.core.array, g: mlx.core.array, "
                "beta: mlx.core.array, state: mlx.core.array | None = None, mask: mlx.core.array | None = None, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> tuple[mlx.core.array, mlx.core.array] | None"),
        "The same. Returns None, and counts a call of MLX's, if gqmm does not compute it.");
}

}  // namespace gqmm::mlx
