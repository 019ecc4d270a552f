// The kernels of what stands between the products of a model, as plain function pointers. They need fma alone, so several
// instruction sets share one table.
#pragma once

#include "cpu/kernels/attention_table.hpp"

#include <cstddef>
#include <cstdint>

namespace gqmm::cpu {

/// Arguments of the root mean square norm of one row.
struct RmsNormArguments {
  const std::byte* x = nullptr;  // n elements without gaps
  Dtype dtype = Dtype::float32;
  std::int64_t n = 0;
  const float* weight = nullptr;  // [n], or nullptr for ones
  float eps = 0;
  float* y = nullptr;  // [n]
};

/// Arguments of the layer norm of one row, which is replaced by the result.
struct LayerNormArguments {
  float* y = nullptr;  // n elements, and room for whole vectors of 16
  std::int64_t n = 0;
  const float* weight = nullptr;  // [n], or nullptr for ones
  const float* bias = nullptr;    // [n], or nullptr for zeros
  float eps = 0;
};

/// Arguments of the softmax of one row, which is replaced by the result.
struct RowSoftmaxArguments {
  float* y = nullptr;  // n elements, and room for whole vectors of 16
  std::int64_t n = 0;
};

/// Arguments of rotating n pairs of numbers: (a, b) becomes (a · cos − b · sin, b · cos + a · sin).
struct RotateArguments {
  float* a = nullptr;
  float* b = nullptr;
  const float* cos = nullptr;
  const float* sin = nullptr;
  std::int64_t n = 0;
};

/// Arguments of a recurrence over some tokens in a row, for up to 16 columns of v. Rows of q, k and g are padded with zeros to
/// whole vectors.
struct RecurrenceArguments {
  const std::byte* state = nullptr;  // a row of Dk float32 for each column, at any address
  std::int64_t state_stride = 0;     // bytes between rows
  std::byte* next_state = nullptr;   // likewise, after the tokens, with canonical NaNs; it may be `state`
  std::int64_t next_stride = 0;
  int columns = 0;
  std::int64_t Dk = 0;
  std::int64_t tokens = 0;      // 0: the state is copied
  const float* q = nullptr;     // [tokens][Dk, padded]
  const float* k = nullptr;     // likewise
  const float* g = nullptr;     // delta_rule: likewise; ssm_step: [tokens]
  const float* beta = nullptr;  // [tokens]
  float* v = nullptr;           // 16 elements for each token, which y replaces
  std::int64_t v_stride = 0;    // elements between tokens
  float skip = 0;               // ssm_step: the factor of v in y
};

/// Arguments of the time steps of 16 tokens of a head.
struct TimeStepArguments {
  float* time_step = nullptr;  // [16]: dt, which the time steps replace
  float* decay = nullptr;      // [16]: what a state decays by
  float A_log = 0;
  float dt_bias = 0;
  float smallest = 0;
  float largest = 0;
};

/// Arguments of the depthwise convolution for some channels of up to 4 rows of y. Tap k of row r reads the row
/// x[r * x_stride + k] of x.
struct ConvolutionArguments {
  const std::byte* const* x = nullptr;  // each at the first channel
  Dtype dtype = Dtype::float32;
  std::int64_t x_stride = 1;       // 1: neighbouring rows of y share rows of x
  const float* weight = nullptr;   // [strip of 16 channels][tap][16]
  std::int64_t weight_stride = 0;  // floats between strips
  std::int64_t taps = 0;
  std::int64_t channels = 0;
  int rows = 0;
  std::byte* y = nullptr;     // float32 with canonical NaNs at any address, at the first channel of the first row
  std::int64_t y_stride = 0;  // bytes between rows
};
inline constexpr int most_convolved_rows = 4;

struct LayerKernels {
  AttentionKernels attention;
  void (*rms_norm)(const RmsNormArguments&);
  void (*layer_norm)(const LayerNormArguments&);
  void (*softmax_of_row)(const RowSoftmaxArguments&);
  void (*rotate)(const RotateArguments&);
  void (*delta_rule)(const RecurrenceArguments&);
  void (*ssm_step)(const RecurrenceArguments&);
  void (*time_steps)(const TimeStepArguments&);
  void (*depthwise_conv)(const ConvolutionArguments&);
};

}  // namespace gqmm::cpu
