// Gradients of the operators (vector-Jacobian products): from dy, the gradient of a result y, to those of the operands.
//
// Sums are in float32 and rounded once, to the type of the operand. A gradient's bits depend neither on the threads nor on the
// instruction set, and those of x and a not on what else the call computes; docs/reference/numerics.md gives the order of the
// sums and the error bounds. Matrices that no pair uses have gradient zero. Gradients have memory of their own, row-major, or
// that of `out`.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/packed_weights.hpp>
#include <gqmm/quantized_weights.hpp>
#include <gqmm/stream.hpp>
#include <gqmm/types.hpp>

#include <optional>

namespace gqmm {

/// Which gradients of a product of quantized weights are wanted: at least one. Those of scales and biases are there in affine
/// mode only, for other modes store scales as codes.
struct GQMM_API QuantizedWrt {
  bool x = true;        ///< whether the gradient of x is wanted
  bool scales = false;  ///< whether that of the scales is
  bool biases = false;  ///< whether that of the biases is
};

/// The gradients that were asked for, each with the shape and type of its operand.
struct GQMM_API QuantizedGradients {
  std::optional<array> x = {};       ///< (…, M, K), as x is
  std::optional<array> scales = {};  ///< for packed weights, the shape and type that unpack gives
  std::optional<array> biases = {};  ///< as the scales
};

/// Options of gather_qmm_vjp.
struct GQMM_API GatherQmmVjpOptions {
  std::optional<array> lhs_indices = {};  ///< as in GatherQmmOptions
  std::optional<array> rhs_indices = {};  ///< as in GatherQmmOptions
  bool sorted_indices = false;            ///< as in GatherQmmOptions
  Missing missing = Missing::error;       ///< as in GatherQmmOptions; a pair without an expert adds nothing to any gradient
  QuantizedWrt wrt = {};                  ///< the gradients that are wanted
  Stream stream = {};                     ///< where the gradients are computed, and with how many threads
  /// Row-major memory to write to, for gradients that are asked for: of their shape and type, and apart from each other and from
  /// the memory of every operand that is read. None: the gradient is allocated.
  QuantizedGradients out = {};
};

/// The gradients of y = gather_qmm(x, weights, {indices}):
///
///     x[l]            Σ dy[i] @ ŵ[rhs[i]] over the pairs i with lhs[i] = l
///     scales[e, n, g] Σ dy[i, m, n] · x[lhs[i], m, k] · code[e, n, k] over the pairs i with rhs[i] = e, their rows m, and the k
///                     of group g; biases: the same with 1 for the code. (Without transpose n and k change places.)
///
/// dy: float16, bfloat16 or float32, in the shape of y, at any strides. x, weights and indices: as in gather_qmm. The elements of
/// x are read for scales and biases only. Throws std::invalid_argument before
/// anything is written; the message names the operation, the values and a remedy.
[[nodiscard]] GQMM_API QuantizedGradients gather_qmm_vjp(const array& dy, const array& x, const QuantizedWeights& weights,
                                                         const GatherQmmVjpOptions& options = {});
/// The same over packed weights, with the same bits.
[[nodiscard]] GQMM_API QuantizedGradients gather_qmm_vjp(const array& dy, const array& x, const PackedWeights& weights,
                                                         const GatherQmmVjpOptions& options = {});

/// Options of quantized_matmul_vjp.
struct GQMM_API QuantizedMatmulVjpOptions {
  QuantizedWrt wrt = {};        ///< the gradients that are wanted
  Stream stream = {};           ///< where the gradients are computed, and with how many threads
  QuantizedGradients out = {};  ///< as in GatherQmmVjpOptions
};

/// The gradients of y = quantized_matmul(x, weights). Dimensions along which x or the weights were broadcast are summed over; a
/// one-dimensional x has a one-dimensional gradient.
[[nodiscard]] GQMM_API QuantizedGradients quantized_matmul_vjp(const array& dy, const array& x, const QuantizedWeights& weights,
                                                               const QuantizedMatmulVjpOptions& options = {});
[[nodiscard]] GQMM_API QuantizedGradients quantized_matmul_vjp(const array& dy, const array& x, const PackedWeights& weights,
                                                               const QuantizedMatmulVjpOptions& options = {});

/// Which gradients of a dense product are wanted: at least one.
struct GQMM_API DenseWrt {
  bool a = true;  ///< whether the gradient of a is wanted
  bool b = true;  ///< whether that of b is
};

/// The gradients that were asked for, each with the shape and type of its operand.
struct GQMM_API DenseGradients {
  std::optional<array> a = {};  ///< (…, M, K), as a is
  std::optional<array> b = {};  ///< (…, K, N), as b is
};

/// Options of gather_mm_vjp.
struct GQMM_API GatherMmVjpOptions {
  std::optional<array> lhs_indices = {};  ///< as in GatherMmOptions
  std::optional<array> rhs_indices = {};  ///< as in GatherMmOptions
  bool sorted_indices = false;            ///< as in GatherMmOptions
  DenseWrt wrt = {};                      ///< the gradients that are wanted
  Stream stream = {};                     ///< where the gradients are computed, and with how many threads
  DenseGradients out = {};                ///< as in GatherQmmVjpOptions
};

/// The gradients of y = gather_mm(a, b, {indices}):
///
///     a[l]  Σ dy[i] @ b[rhs[i]].T over the pairs i with lhs[i] = l
///     b[e]  Σ a[lhs[i]].T @ dy[i] over the pairs i with rhs[i] = e
///
/// dy: float16, bfloat16 or float32, in the shape of y, at any strides. One-dimensional a and b have one-dimensional gradients.
/// The elements of a are read for b's gradient only, and those of b for a's. Throws as gather_qmm_vjp does.
[[nodiscard]] GQMM_API DenseGradients gather_mm_vjp(const array& dy, const array& a, const array& b,
                                                    const GatherMmVjpOptions& options = {});

}  // namespace gqmm
