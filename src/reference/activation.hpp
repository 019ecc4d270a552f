// The specification of activations, in double precision, and the error bound that results must keep (docs/reference/numerics.md).
#pragma once

#include <gqmm/activation.hpp>

namespace gqmm::detail {

/// The exact value of an element, and how far a result in float32 may be from it before it is rounded to its type.
struct ActivationReference {
  double h = 0;
  double error = 0;
};

/// `up` is not read if the activation is not gated.
ActivationReference reference_activation(const Activation& activation, double gate, double up);

/// A value for gate and one for up.
struct GateAndUp {
  double gate = 0;
  double up = 0;  ///< 0 if the activation is not gated
};
/// By how much the exact value may change when gate and up change by at most `changes`. It follows from the Lipschitz constants
/// of the two factors.
double change_of_activation(const Activation& activation, const GateAndUp& values, const GateAndUp& changes);

/// How far a result of this type may be from the reference. It is infinite if the reference is not finite or is beyond the range
/// of the type.
double error_bound(const ActivationReference& reference, Dtype dtype);

}  // namespace gqmm::detail
