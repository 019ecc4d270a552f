#include "convolution.hpp"

#include "arrays.hpp"
#include "composed.hpp"
#include "functions.hpp"
#include "product.hpp"

#include <gqmm/convolution.hpp>
#include <gqmm/infer.hpp>

#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

namespace gqmm::mlx {
namespace {

using Arrays = std::vector<mx::array>;

/// The numbers of a convolution along one dimension.
struct DepthwiseSettings {
  int stride = 1;
  int padding_before = 0;
  int padding_after = 0;
  int dilation = 1;
  friend bool operator==(const DepthwiseSettings&, const DepthwiseSettings&) = default;

  [[nodiscard]] DepthwiseConv1dOptions options() const {
    return {.stride = stride, .padding_before = padding_before, .padding_after = padding_after, .dilation = dilation};
  }
  [[nodiscard]] ConvGeneralArguments arguments(int channels, mx::Stream stream) const {
    return {.stride = {stride},
            .padding_before = {padding_before},
            .padding_after = {padding_after},
            .kernel_dilation = {dilation},
            .groups = channels,
            .stream = stream};
  }
};

mx::array stock_convolution(const mx::array& x, const mx::array& weight, const ConvGeneralArguments& a) {
  return mx::conv_general(x, weight, a.stride, a.padding_before, a.padding_after, a.kernel_dilation, a.input_dilation, a.groups,
                          a.flip, a.stream);
}

/// The inputs are x and weight.
class DepthwiseConv1d final : public Composed {
 public:
  DepthwiseConv1d(mx::Stream stream, const DepthwiseSettings& settings) : Composed(stream), settings_(settings) {}

  [[nodiscard]] const char* name() const override { return "GqmmDepthwiseConv1d"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return settings_ == static_cast<const DepthwiseConv1d&>(other).settings_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    const Shape shape = infer_depthwise_conv1d(outline_of(inputs[0]), outline_of(inputs[1]), settings_.options()).shape;
    return {{shape.begin(), shape.end()}};
  }
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    evaluate_on_stream(stream(), inputs, outputs.front(), [weak = weak_copies(inputs), settings = settings_](mx::array& y) {
      DepthwiseConv1dOptions options = settings.options();
      options.out = writable_view_of(y);
      gqmm::depthwise_conv1d(view_of(weak[0]), view_of(weak[1]), options);
    });
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    const auto convolve = [&](const Arrays& arrays) {
      return conv_general(arrays[0], arrays[1], settings_.arguments(arrays[0].shape(2), stream()));
    };
    if (axes[1] >= 0) {
      return {{stack_of_calls(inputs, axes, stream(), convolve)}, {0}};
    }
    const auto all = [&](const Arrays& arrays) { return Arrays{convolve(arrays)}; };
    return {one_call_for_both_batches(inputs, axes, {1}, stream(), all), {0}};
  }

 protected:
  Arrays composed(const Arrays& inputs) override {
    return {stock_convolution(inputs[0], inputs[1], settings_.arguments(inputs[0].shape(2), stream()))};
  }

 private:
  DepthwiseSettings settings_;
};

/// What gqmm computes for these arguments, or nothing if MLX's function must judge them.
std::optional<DepthwiseSettings> settings_of(const mx::array& x, const mx::array& weight, const ConvGeneralArguments& a,
                                             mx::Stream stream) {
  const auto is_short = [](const std::vector<int>& list) { return list.size() <= 1; };
  const auto first = [](const std::vector<int>& list, int otherwise) { return list.empty() ? otherwise : list.front(); };
  if (!is_on_cpu(stream) || !is_compute_type(x) || !is_compute_type(weight) || x.ndim() != 3 || weight.ndim() != 3 ||
      a.groups != x.shape(2) || a.flip || first(a.input_dilation, 1) != 1 || !is_short(a.stride) || !is_short(a.padding_before) ||
      !is_short(a.padding_after) || !is_short(a.kernel_dilation) || !is_short(a.input_dilation)) {
    return std::nullopt;
  }
  return DepthwiseSettings{.stride = first(a.stride, 1),
                           .padding_before = first(a.padding_before, 0),
                           .padding_after = first(a.padding_after, 0),
                           .dilation = first(a.kernel_dilation, 1)};
}

/// The shape and type of the result, or nothing if gqmm refuses the arguments.
std::optional<ResultType> result_of(const mx::array& x, const mx::array& weight, const DepthwiseSettings& settings) {
  try {
    return infer_depthwise_conv1d(outline_of(x), outline_of(weight), settings.options());
  } catch (const std::invalid_argument&) {
    return std::nullopt;
  }
}

}  // namespace

mx::array conv_general(const mx::array& x, const mx::array& weight, const ConvGeneralArguments& arguments) {
  const mx::Stream s = mx::to_stream(arguments.stream);
  const std::optional<DepthwiseSettings> settings = settings_of(x, weight, arguments, s);
  const std::optional<ResultType> result = settings ? result_of(x, weight, *settings) : std::nullopt;
  if (!result) {
    ++counts().conv1d.stock;
    return stock_convolution(x, weight, arguments);
  }
  ++counts().conv1d.ours;
  return mx::array({result->shape.begin(), result->shape.end()}, mlx_dtype(result->dtype),
                   std::make_shared<DepthwiseConv1d>(s, *settings), {x, weight});
}

}  // namespace gqmm::mlx
