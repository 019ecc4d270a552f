// The operators. Shapes, defaults and packing are those of mlx.core in MLX 0.32.4 on the CPU; docs/numerics.md states the error
// bounds and docs/formats.md the bits of each weight format.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/packed_weights.hpp>
#include <gqmm/stream.hpp>
#include <gqmm/types.hpp>

#include <optional>

namespace gqmm {

/// Options of gather_qmm; quantized_matmul takes those that it shares.
struct GQMM_API GatherQmmOptions {
  /// affine: float16, bfloat16 or float32, (…, N, K/group_size) when transpose, else (…, K, N/group_size), leading dimensions
  /// as w. Other modes: uint8 (E8M0 for mxfp4 and mxfp8, E4M3 for nvfp4), same shape.
  std::optional<array> scales = {};
  /// affine only: the shape of scales.
  std::optional<array> biases = {};
  /// Flat positions in x's leading dimensions, any integer type and shape. None: 0, 1, … in the shape of those dimensions.
  std::optional<array> lhs_indices = {};
  /// Flat positions in w's leading dimensions, likewise. Both None: the leading dimensions of x and w broadcast.
  std::optional<array> rhs_indices = {};
  /// True (the default): y = x @ ŵ.T with ŵ (…, N, K). False: y = x @ ŵ with ŵ (…, K, N), packed and grouped along N.
  std::optional<bool> transpose = {};
  /// Defaults by mode: affine 64, mxfp4 and mxfp8 32, nvfp4 16.
  std::optional<int> group_size = {};
  /// Defaults by mode: affine 4, mxfp4 4, mxfp8 8, nvfp4 4.
  std::optional<int> bits = {};
  std::optional<Mode> mode = {};
  /// nvfp4 only: float32, one value per leading matrix of w (its leading shape), or a single value for all of them.
  std::optional<array> global_scale = {};
  /// A promise that rhs_indices, flattened, ascend. It is checked. Ignored without rhs_indices.
  bool sorted_indices = false;
  Precision precision = Precision::standard;
  Stream stream = {};
  /// Row-major memory of the result's shape and type to write to, none of it between the first and the last byte of an operand.
  /// None: the result is allocated.
  std::optional<array> out = {};
};

/// y[i] = x[lhs_indices[i]] @ ŵ[rhs_indices[i]].T, ŵ the dequantized weights.
///
/// x: float16, bfloat16 or float32, (…, M, K). w: uint32, (…, N, K·bits/32) when transpose, else (…, K, N·bits/32); codes are
/// packed low to high as one little-endian bit stream per row. Result: (broadcast shape of the indices) + (M, N), in the type
/// that x, scales and biases promote to (affine) or x's (other modes). Strides are free; memory may have any alignment.
/// Throws std::invalid_argument before anything is written; the message names the operation, the values and a remedy.
GQMM_API array gather_qmm(const array& x, const array& w, const GatherQmmOptions& options);
/// The same over packed weights. scales and biases must be None, and so must global_scale if w holds one; other settings, when
/// given, must agree with w's.
GQMM_API array gather_qmm(const array& x, const PackedWeights& w, const GatherQmmOptions& options = {});

/// y = x @ ŵ.T (or x @ ŵ), the leading dimensions of x and w broadcast. x may have one dimension, as in MLX: the result then
/// has one as well if w has two. Indices, sorted_indices and global_scale of the options must be left alone.
GQMM_API array quantized_matmul(const array& x, const array& w, const GatherQmmOptions& options);
GQMM_API array quantized_matmul(const array& x, const PackedWeights& w, const GatherQmmOptions& options = {});

/// The members mean what those of GatherQmmOptions do, for a and b in the place of x and w.
struct GQMM_API GatherMmOptions {
  std::optional<array> lhs_indices = {};
  std::optional<array> rhs_indices = {};
  bool sorted_indices = false;
  Stream stream = {};
  std::optional<array> out = {};
};

/// y[i] = a[lhs_indices[i]] @ b[rhs_indices[i]] over dense float matrices: a (…, M, K), b (…, K, N). A one-dimensional a (b) is
/// a row (column) whose dimension is dropped from the result. Sums are in float32 whatever the type.
GQMM_API array gather_mm(const array& a, const array& b, const GatherMmOptions& options = {});

struct GQMM_API QuantizeOptions {
  std::optional<int> group_size = {};
  std::optional<int> bits = {};
  Mode mode = Mode::affine;
  /// nvfp4 only: one float32 value, the largest magnitude of the tensor; scales are stored relative to it.
  std::optional<array> global_scale = {};
  Stream stream = {};  ///< checked, no more: quantize runs on the caller's thread alone
};

struct GQMM_API Quantized {
  array w;                      ///< uint32 (…, K·bits/32)
  array scales;                 ///< (…, K/group_size): w's type for affine, else uint8
  std::optional<array> biases;  ///< affine only
};

/// Quantizes the last dimension of w (float16, bfloat16 or float32, at least two dimensions, K a multiple of group_size), bit
/// for bit as mlx.core.quantize does for finite input. docs/formats.md lists the deviations.
GQMM_API Quantized quantize(const array& w, const QuantizeOptions& options = {});

struct GQMM_API DequantizeOptions {
  std::optional<array> biases = {};
  std::optional<int> group_size = {};
  std::optional<int> bits = {};
  Mode mode = Mode::affine;
  /// nvfp4 only: float32, one value, or one per leading matrix of w.
  std::optional<array> global_scale = {};
  /// Result type. None: what scales and biases promote to for affine, else bfloat16. With a global_scale it is float32 always,
  /// as in MLX.
  std::optional<Dtype> dtype = {};
  Stream stream = {};  ///< checked, no more: dequantize runs on the caller's thread alone
};

/// The weights (…, K) that quantized w (…, K·bits/32) stands for, bit for bit as mlx.core.dequantize gives them.
GQMM_API array dequantize(const array& w, const array& scales, const DequantizeOptions& options = {});

}  // namespace gqmm
