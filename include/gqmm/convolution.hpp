// The convolution of each channel by itself, as it stands before recurrent layers.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/stream.hpp>

#include <cstdint>
#include <optional>

namespace gqmm {

/// Options of depthwise_conv1d.
struct GQMM_API DepthwiseConv1dOptions {
  std::int64_t stride = 1;          ///< rows of x between the first taps of two rows of the result
  std::int64_t padding_before = 0;  ///< rows of zeros in front of x; taps − 1 make the convolution causal
  std::int64_t padding_after = 0;   ///< rows of zeros behind x
  std::int64_t dilation = 1;        ///< rows of x between two taps
  Stream stream = {};               ///< where the operator runs, and with how many threads
  std::optional<array> out = {};    ///< memory for the result, as in GatherQmmOptions
};

/// Convolves each channel along the rows, as mx.conv1d does where groups is the number of channels. With zeros for rows in front
/// of x and behind it, and k over the taps:
///
///     y[b, t, c] = Σ_k x[b, t · stride + k · dilation − padding_before, c] · weight[c, k, 0]
///
/// x: (B, L, C), float16, bfloat16 or float32, of any strides. weight: (C, taps, 1), likewise.
///
/// Result: (B, T, C), with T = (L + padding_before + padding_after − (taps − 1) · dilation − 1) / stride + 1, and the type to
/// which x and weight promote. All arithmetic is in float32, and the result is rounded once. A row has the same bits in a prompt,
/// in chunks that begin with the last rows of the chunk before, in any batch, with any number of threads and on every
/// instruction set. docs/reference/numerics.md states the order of operations and the error bound.
///
/// Throws std::invalid_argument before anything is written. The message names the operation, the values and a remedy.
GQMM_API array depthwise_conv1d(const array& x, const array& weight, const DepthwiseConv1dOptions& options = {});

}  // namespace gqmm
