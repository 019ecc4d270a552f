// The values of small arrays of one dimension.
#pragma once

#include "namespaces.hpp"

#include <gqmm/array.hpp>

#include <cstdint>
#include <optional>
#include <vector>

namespace gqmm::detail {

/// The elements of an array of a compute float with one dimension.
std::vector<float> load_vector(const array& a);

/// An integer of any integer type at the address. It is empty if it does not fit int64.
std::optional<std::int64_t> load_integer(const std::byte* address, Dtype dtype);

}  // namespace gqmm::detail
