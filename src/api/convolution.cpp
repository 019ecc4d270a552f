// depthwise_conv1d: the checks of its arguments.
#include "cpu/convolution.hpp"

#include "api/check.hpp"
#include "api/lower.hpp"
#include "api/output.hpp"
#include "arrays/views.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/convolution.hpp>
#include <gqmm/infer.hpp>

#include <string_view>
#include <utility>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view conv_op = "depthwise_conv1d";

void check_operands(const array& x, const array& weight) {
  check_compute_float(conv_op, "x", x);
  check_compute_float(conv_op, "weight", weight);
  if (x.rank() != 3) {
    fail(conv_op, "x has shape {}; it must have 3 dimensions, (batch, rows, channels)", to_string(x.shape()));
  }
  if (weight.rank() != 3 || weight.dim(0) != x.dim(2) || weight.dim(2) != 1) {
    fail(conv_op, "x has shape {} but weight has shape {}; it must be ({}, taps, 1), a row of taps for each channel",
         to_string(x.shape()), to_string(weight.shape()), x.dim(2));
  }
  if (weight.dim(1) == 0) {
    fail(conv_op, "weight has shape {}; it must have at least one tap for each channel", to_string(weight.shape()));
  }
}

void check_options(const DepthwiseConv1dOptions& options) {
  const auto check = [](std::string_view name, std::int64_t value, std::int64_t least) {
    constexpr std::int64_t most = std::int64_t{1} << 31;  // so no sum of these overflows
    if (value < least || value >= most) {
      fail(conv_op, "{} = {} is not in the range from {} to 2^31 - 1", name, value, least);
    }
  };
  check("stride", options.stride, 1);
  check("padding_before", options.padding_before, 0);
  check("padding_after", options.padding_after, 0);
  check("dilation", options.dilation, 1);
  check_stream(conv_op, options.stream);
}

/// The number of rows of a sequence of the result.
std::int64_t result_rows(const array& x, const array& weight, const DepthwiseConv1dOptions& options) {
  const std::int64_t from_first_to_last = checked_product(conv_op, "(taps - 1) * dilation", weight.dim(1) - 1, options.dilation);
  const std::int64_t padding = options.padding_before + options.padding_after;
  std::int64_t rows = 0;
  if (__builtin_add_overflow(x.dim(1), padding, &rows)) {  // x may have any number of rows without elements
    fail(conv_op, "x has shape {} and {} rows of padding, together more rows than 64 bits can count; pass less padding",
         to_string(x.shape()), padding);
  }
  if (rows <= from_first_to_last) {
    fail(conv_op,
         "x has {} rows with its padding, but the first and the last of {} taps with dilation {} are {} rows apart; pass more "
         "rows "
         "or more padding",
         rows, weight.dim(1), options.dilation, from_first_to_last);
  }
  return (rows - from_first_to_last - 1) / options.stride + 1;
}

}  // namespace

ResultType infer_depthwise_conv1d(const array& x, const array& weight, const DepthwiseConv1dOptions& options) {
  check_operands(x, weight);
  check_options(options);
  return {{x.dim(0), result_rows(x, weight, options), x.dim(2)}, promote(x.dtype(), weight.dtype())};
}

namespace detail {

LoweredConvolution lower_depthwise_conv1d(const array& x, const array& weight, const DepthwiseConv1dOptions& options) {
  const ResultType type = infer_depthwise_conv1d(x, weight, options);
  const NamedOperand operands[] = {{"x", &x}, {"weight", &weight}};
  LoweredConvolution lowered;
  lowered.result = make_result(conv_op, type.shape, type.dtype, options.out, operands);
  if (lowered.result.size() == 0) {
    return lowered;
  }
  lowered.problem = {.x = lowered.contiguous(x),
                     .weight = MatrixBatch(without_dimension(weight, 2)),
                     .rows = type.shape[1],
                     .stride = options.stride,
                     .dilation = options.dilation,
                     .padding_before = options.padding_before,
                     .y = lowered.result.mutable_bytes(),
                     .y_dtype = type.dtype,
                     .threads = options.stream.threads};
  return lowered;
}

}  // namespace detail

array depthwise_conv1d(const array& x, const array& weight, const DepthwiseConv1dOptions& options) {
  const threads::NodeBinding binding(options.stream);
  LoweredConvolution lowered = lower_depthwise_conv1d(x, weight, options);
  if (lowered.problem.y != nullptr) {
    cpu::depthwise_conv1d(lowered.problem);
  }
  return std::move(lowered.result);
}

}  // namespace gqmm
