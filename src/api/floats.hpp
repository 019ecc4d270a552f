// Arrays of any compute float as float32, and back, on the threads of a stream.
#pragma once

#include "namespaces.hpp"

#include <gqmm/array.hpp>
#include <gqmm/stream.hpp>

#include <vector>

namespace gqmm::detail {

/// The elements of an array in row-major order.
std::vector<float> floats_of(const array& a, const Stream& stream);
/// A new array of these elements, each rounded to `dtype`.
array rounded(const std::vector<float>& values, const Shape& shape, Dtype dtype, const Stream& stream);
/// Adds the values to those of `sum`.
void add(std::vector<float>& sum, const std::vector<float>& values, const Stream& stream);

}  // namespace gqmm::detail
