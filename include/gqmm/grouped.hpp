// Products of rows that are sorted by expert, as grouped matrix products of other libraries have them.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/gradients.hpp>
#include <gqmm/packed_weights.hpp>
#include <gqmm/quantized_weights.hpp>
#include <gqmm/stream.hpp>
#include <gqmm/types.hpp>

#include <optional>

namespace gqmm {

/// Options of grouped_qmm.
struct GQMM_API GroupedQmmOptions {
  /// What happens to rows of x behind the last group. Missing::error: there may be none. Missing::zero: their results are zero,
  /// and they are not read, so that x may be a buffer of fixed capacity.
  Missing rows = Missing::error;
  Precision precision = Precision::standard;  ///< as in GatherQmmOptions
  Stream stream = {};                         ///< as in GatherQmmOptions
  std::optional<array> out = {};              ///< as in GatherQmmOptions
};

/// Computes y[r] = x[r] @ ŵ[e].T for the rows r of the group of expert e, or x[r] @ ŵ[e] for weights without transpose.
///
/// x: float16, bfloat16 or float32, (R, K), sorted by expert. weights: (E, N, K) or, without transpose, (E, K, N). offsets: int32
/// or int64. With E values, offsets[e] is the end of group e, as torch's grouped_mm has it. With E + 1 values, the first is 0 and
/// group e is offsets[e] … offsets[e + 1]. Offsets do not decrease, and the last one is R (at most R, if options.rows says so).
///
/// Result: (R, N) of gather_qmm's type, with the bits of gather_qmm. Throws std::invalid_argument before anything is written. The
/// message names the operation, the values and a remedy.
GQMM_API array grouped_qmm(const array& x, const QuantizedWeights& weights, const array& offsets,
                           const GroupedQmmOptions& options = {});
GQMM_API array grouped_qmm(const array& x, const PackedWeights& weights, const array& offsets,
                           const GroupedQmmOptions& options = {});

/// Options of grouped_mm.
struct GQMM_API GroupedMmOptions {
  Missing rows = Missing::error;  ///< as in GroupedQmmOptions
  Stream stream = {};             ///< as in GatherMmOptions
  std::optional<array> out = {};  ///< as in GatherMmOptions
};

/// Computes y[r] = x[r] @ b[e] for the rows r of the group of expert e. x: (R, K), b: (E, K, N), each float16, bfloat16 or
/// float32. offsets: as in grouped_qmm. Result: (R, N) in the type that x and b promote to, with the bits of gather_mm. Errors
/// are those of grouped_qmm.
GQMM_API array grouped_mm(const array& x, const array& b, const array& offsets, const GroupedMmOptions& options = {});

/// Options of grouped_qmm_vjp.
struct GQMM_API GroupedQmmVjpOptions {
  Missing rows = Missing::error;  ///< as in GroupedQmmOptions
  QuantizedWrt wrt = {};          ///< the gradients that are wanted
  Stream stream = {};             ///< where the gradients are computed, and with how many threads
  QuantizedGradients out = {};    ///< as in GatherQmmVjpOptions
};

/// The gradients of y = grouped_qmm(x, weights, offsets), as gather_qmm_vjp gives them. dy: float16, bfloat16 or float32, (R, N),
/// at any strides. The gradient of a row behind the last group is zero.
[[nodiscard]] GQMM_API QuantizedGradients grouped_qmm_vjp(const array& dy, const array& x, const QuantizedWeights& weights,
                                                          const array& offsets, const GroupedQmmVjpOptions& options = {});
[[nodiscard]] GQMM_API QuantizedGradients grouped_qmm_vjp(const array& dy, const array& x, const PackedWeights& weights,
                                                          const array& offsets, const GroupedQmmVjpOptions& options = {});

/// Which gradients of grouped_mm are wanted: at least one.
struct GQMM_API GroupedMmWrt {
  bool x = true;  ///< whether the gradient of x is wanted
  bool b = true;  ///< whether that of b is
};

/// The gradients that were asked for, each with the shape and type of its operand.
struct GQMM_API GroupedMmGradients {
  std::optional<array> x = {};  ///< (R, K)
  std::optional<array> b = {};  ///< (E, K, N)
};

/// Options of grouped_mm_vjp.
struct GQMM_API GroupedMmVjpOptions {
  Missing rows = Missing::error;  ///< as in GroupedQmmOptions
  GroupedMmWrt wrt = {};          ///< the gradients that are wanted
  Stream stream = {};             ///< where the gradients are computed, and with how many threads
  GroupedMmGradients out = {};    ///< as in GatherQmmVjpOptions
};

/// The gradients of y = grouped_mm(x, b, offsets), as gather_mm_vjp gives them. dy is that of grouped_qmm_vjp.
[[nodiscard]] GQMM_API GroupedMmGradients grouped_mm_vjp(const array& dy, const array& x, const array& b, const array& offsets,
                                                         const GroupedMmVjpOptions& options = {});

}  // namespace gqmm
