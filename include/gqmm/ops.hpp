// The operators. Shapes, defaults and the packing of codes are those of mlx.core in MLX 0.32.4 on the CPU.
// docs/reference/numerics.md states the error bounds, and docs/reference/formats.md the bits of each weight format. gqmm/gqmm.hpp
// states thread-safety, forks and exceptions.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/packed_weights.hpp>
#include <gqmm/quantized_weights.hpp>
#include <gqmm/stream.hpp>
#include <gqmm/types.hpp>

#include <optional>

namespace gqmm {

/// Options of gather_qmm.
struct GQMM_API GatherQmmOptions {
  /// Flat positions in x's leading dimensions, of any integer type and any shape. Without them, the positions are 0, 1, … in the
  /// shape of those dimensions.
  std::optional<array> lhs_indices = {};
  /// Flat positions in the leading dimensions of the weights, with the same rules. If both index arrays are missing, the leading
  /// dimensions of x and of the weights broadcast. `missing` says what a negative position means.
  std::optional<array> rhs_indices = {};
  /// Promises that rhs_indices, flattened, ascend. The promise is checked. It is ignored without rhs_indices.
  bool sorted_indices = false;
  /// Missing::zero: where an entry of rhs_indices is negative, the result is zero and no row of x is read. With sorted_indices,
  /// negative entries come first.
  Missing missing = Missing::error;
  Precision precision = Precision::standard;  ///< precision to which activations are cut into integers
  Stream stream = {};                         ///< where the product runs, and with how many threads
  /// Memory for the result. It must be row-major, writable and of the result's shape and type. It must not overlap the memory
  /// from the first to the last byte of any operand. Without it, the operator allocates the result.
  std::optional<array> out = {};
};

/// Computes y[i] = x[lhs_indices[i]] @ ŵ[rhs_indices[i]].T, where ŵ are the dequantized weights. For weights without transpose,
/// it is x @ ŵ.
///
/// x: float16, bfloat16 or float32, (…, M, K). weights: (…, N, K) or, without transpose, (…, K, N); gqmm/quantized_weights.hpp
/// describes their arrays. Strides are free, and memory may have any alignment.
///
/// Result: (broadcast shape of the indices) + (M, N). For affine weights, its type is the one that x, scales and biases promote
/// to. For other modes it is the type of x.
///
/// Throws std::invalid_argument before anything is written. The message names the operation, the values and a remedy.
GQMM_API array gather_qmm(const array& x, const QuantizedWeights& weights, const GatherQmmOptions& options = {});
/// The same product over packed weights. The results have the same bits.
GQMM_API array gather_qmm(const array& x, const PackedWeights& weights, const GatherQmmOptions& options = {});

/// Options of quantized_matmul.
struct GQMM_API QuantizedMatmulOptions {
  Precision precision = Precision::standard;  ///< as in GatherQmmOptions
  Stream stream = {};                         ///< as in GatherQmmOptions
  std::optional<array> out = {};              ///< as in GatherQmmOptions
};

/// Computes y = x @ ŵ.T, or x @ ŵ for weights without transpose. The leading dimensions of x and of the weights broadcast. x may
/// have one dimension, as in MLX. If the weights have two dimensions, the result then has one dimension as well. Types and errors
/// are those of gather_qmm.
GQMM_API array quantized_matmul(const array& x, const QuantizedWeights& weights, const QuantizedMatmulOptions& options = {});
GQMM_API array quantized_matmul(const array& x, const PackedWeights& weights, const QuantizedMatmulOptions& options = {});

/// Options of gather_mm. The members mean the same as in GatherQmmOptions, with a and b in the place of x and the weights.
struct GQMM_API GatherMmOptions {
  std::optional<array> lhs_indices = {};  ///< flat positions in the leading dimensions of a
  std::optional<array> rhs_indices = {};  ///< flat positions in the leading dimensions of b
  bool sorted_indices = false;            ///< promises that rhs_indices ascend; the promise is checked
  Stream stream = {};                     ///< where the product runs, and with how many threads
  std::optional<array> out = {};          ///< memory for the result
};

/// Computes y[i] = a[lhs_indices[i]] @ b[rhs_indices[i]] over dense float matrices: a (…, M, K), b (…, K, N), each float16,
/// bfloat16 or float32. A one-dimensional a is a row, and a one-dimensional b is a column; the result lacks that dimension.
/// Result: (broadcast shape of the indices) + (M, N), in the type that a and b promote to. Sums are in float32 for all types.
/// Errors are those of gather_qmm.
GQMM_API array gather_mm(const array& a, const array& b, const GatherMmOptions& options = {});

/// Options of quantize. The defaults are those of QuantizedWeights.
struct GQMM_API QuantizeOptions {
  std::optional<int> group_size = {};  ///< number of weights that share a scale
  std::optional<int> bits = {};        ///< number of bits of a code
  Mode mode = Mode::affine;            ///< the weight format
  /// nvfp4 only: one float32 value, the largest magnitude of the tensor. Scales are stored relative to it.
  std::optional<array> global_scale = {};
  Stream stream = {};  ///< its node counts; quantize runs on the caller's thread alone
};

/// Quantizes the last dimension of w. w is float16, bfloat16 or float32 and has at least two dimensions; K is a multiple of
/// group_size. For finite input, the result equals that of mlx.core.quantize bit for bit; docs/reference/formats.md lists the
/// deviations.
///
/// The result owns its arrays and its global_scale, and every setting is filled in:
/// - w: uint32 (…, K·bits/32);
/// - scales: (…, K/group_size), of the type of w for affine, else uint8;
/// - biases: for affine only, like scales;
/// - transpose: true.
///
/// Throws std::invalid_argument for other types, shapes or settings.
GQMM_API QuantizedWeights quantize(const array& w, const QuantizeOptions& options = {});

/// Options of dequantize.
struct GQMM_API DequantizeOptions {
  /// Type of the result. Without it, the type is what scales and biases promote to for affine, else bfloat16. With a global_scale
  /// it is always float32, as in MLX.
  std::optional<Dtype> dtype = {};
  Stream stream = {};  ///< its node counts; dequantize runs on the caller's thread alone
};

/// Dequantizes weights to matrices of the shape weights.shape(). The result equals that of mlx.core.dequantize bit for bit.
/// Throws std::invalid_argument if the arrays and settings do not fit each other.
GQMM_API array dequantize(const QuantizedWeights& weights, const DequantizeOptions& options = {});

}  // namespace gqmm
