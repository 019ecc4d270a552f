// Convolutions of each channel by itself over arrays of MLX.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <vector>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// The arguments of a convolution besides its arrays, as mx::conv_general has them. A list has a number for each dimension
/// between the first and the last, or one for all, or none for the default.
struct ConvGeneralArguments {
  std::vector<int> stride = {};
  std::vector<int> padding_before = {};
  std::vector<int> padding_after = {};
  std::vector<int> kernel_dilation = {};
  std::vector<int> input_dilation = {};
  int groups = 1;
  bool flip = false;
  mx::StreamOrDevice stream = {};
};

/// Makes mx.conv_general as gqmm::depthwise_conv1d computes it, where each channel of (batch, rows, channels) has taps of its own
/// and one output. It calls MLX's function for all others.
mx::array conv_general(const mx::array& x, const mx::array& weight, const ConvGeneralArguments& arguments);

}  // namespace gqmm::mlx
