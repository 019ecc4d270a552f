// Cosines and sines of the angles of rotary embeddings. They are computed in float64 by sums and products in a fixed order, so
// they do not depend on a C library, and are rounded to float32.
#pragma once

#include <cstdint>
#include <vector>

namespace gqmm::cpu {

/// base^(−i / pairs) for i < pairs. base must be positive and finite.
std::vector<double> frequencies_of_base(double base, std::int64_t pairs);

struct CosineAndSine {
  double cos;
  double sin;
};
/// The error is below 2^−50. |angle| must be at most 2^40.
CosineAndSine cosine_and_sine(double angle);

}  // namespace gqmm::cpu
