#include "convolution_arguments.hpp"

#include "convolution.hpp"

#include <mlx/utils.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

namespace gqmm::mlx {
namespace {

using namespace nb::literals;
using Numbers = std::variant<int, std::vector<int>>;
using Padding = std::variant<int, std::vector<int>, std::pair<std::vector<int>, std::vector<int>>>;

std::vector<int> list_of(const Numbers& numbers) {
  const auto* one = std::get_if<int>(&numbers);
  return one != nullptr ? std::vector{*one} : std::get<std::vector<int>>(numbers);
}

/// MLX divides by the number of groups before it looks at it.
void check_groups(const char* op, int groups) {
  if (groups < 1) {
    throw std::invalid_argument(std::string("[") + op + "] groups = " + std::to_string(groups) +
                                " is not positive; pass 1, or the number of channels for a convolution of each by itself");
  }
}

mx::array call_conv1d(const mx::array& input, const mx::array& weight, int stride, int padding, int dilation, int groups,
                      mx::StreamOrDevice stream) {
  check_groups("conv1d", groups);
  return conv_general(input, weight,
                      {.stride = {stride},
                       .padding_before = {padding},
                       .padding_after = {padding},
                       .kernel_dilation = {dilation},
                       .groups = groups,
                       .stream = stream});
}

mx::array call_conv_general(const mx::array& input, const mx::array& weight, const Numbers& stride, const Padding& padding,
                            const Numbers& kernel_dilation, const Numbers& input_dilation, int groups, bool flip,
                            mx::StreamOrDevice stream) {
  check_groups("conv_general", groups);
  ConvGeneralArguments arguments = {.stride = list_of(stride),
                                    .kernel_dilation = list_of(kernel_dilation),
                                    .input_dilation = list_of(input_dilation),
                                    .groups = groups,
                                    .flip = flip,
                                    .stream = stream};
  if (const auto* both = std::get_if<std::pair<std::vector<int>, std::vector<int>>>(&padding)) {
    std::tie(arguments.padding_before, arguments.padding_after) = *both;
  } else {
    const auto* one = std::get_if<int>(&padding);
    arguments.padding_before = one != nullptr ? std::vector{*one} : std::get<std::vector<int>>(padding);
    arguments.padding_after = arguments.padding_before;
  }
  return conv_general(input, weight, arguments);
}

}  // namespace

void bind_convolutions(nb::module_& m) {
  m.def("conv1d", &call_conv1d, nb::arg(), nb::arg(), "stride"_a = 1, "padding"_a = 0, "dilation"_a = 1, "groups"_a = 1,
        nb::kw_only(), "stream"_a = nb::none(),
        nb::sig("def conv1d(input: mlx.core.array, weight: mlx.core.array, /, stride: int = 1, padding: int = 0, "
                "dilation: int = 1, groups: int = 1, *, stream: mlx.core.Stream | mlx.core.Device | None = None) "
                "-> mlx.core.array"),
        R"(Convolve rows, as mlx.core.conv1d does, and as gqmm.depthwise_conv1d does where groups is the number of channels.

Args:
    input: shape (B, L, C).
    weight: shape (outputs, taps, C / groups).
    stride, padding, dilation, groups: as for mlx.core.conv1d.
    stream: a stream or device of MLX.

Returns:
    A lazy array of the type that input and weight promote to. gqmm computes it on the CPU if groups, C and outputs are the same
    number and the types are float16, bfloat16 or float32. MLX's own function computes all others, and the gradients.

Raises:
    ValueError: shapes or types contradict each other, or a number is not positive.)");
  m.def("conv_general", &call_conv_general, nb::arg(), nb::arg(), "stride"_a = 1, "padding"_a = 0, "kernel_dilation"_a = 1,
        "input_dilation"_a = 1, "groups"_a = 1, "flip"_a = false, nb::kw_only(), "stream"_a = nb::none(),
        nb::sig("def conv_general(input: mlx.core.array, weight: mlx.core.array, /, "
                "stride: int | collections.abc.Sequence[int] = 1, "
                "padding: int | collections.abc.Sequence[int] | "
                "tuple[collections.abc.Sequence[int], collections.abc.Sequence[int]] = 0, "
                "kernel_dilation: int | collections.abc.Sequence[int] = 1, "
                "input_dilation: int | collections.abc.Sequence[int] = 1, groups: int = 1, flip: bool = False, *, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Convolve, as mlx.core.conv_general does. gqmm computes the same as in conv1d, with any padding at each end.)");
}

}  // namespace gqmm::mlx
