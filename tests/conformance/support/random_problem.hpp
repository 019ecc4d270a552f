// Small problems of every kind at random, for suites that compare bits.
#pragma once

#include "conformance/support/problems.hpp"

#include <cstdint>

namespace gqmm::conformance {

/// A small problem of any kind. One expert gets 1 … 200 rows, so that the kernels for few rows and for many meet.
Spec random_spec(std::uint64_t seed);

/// Chooses extents, pairs and values for a problem whose seed, format and types stand: one expert gets 1 … 2^log2_rows rows.
void choose_extents(Spec& spec, double log2_rows, Random& random);

/// Values that take the exceptional ways through the kernels: they must depend on a row and its group alone as well.
void add_special_values(const Spec& spec, Contents& contents);

}  // namespace gqmm::conformance
