// Views of an array's memory with other dimensions.
#pragma once

#include "namespaces.hpp"

#include <gqmm/array.hpp>

namespace gqmm::detail {

/// The array with a dimension of extent 1 put in front of dimension `axis`.
[[nodiscard]] array with_dimension(const array& a, int axis);
/// The array without dimension `axis`, whose extent must be 1.
[[nodiscard]] array without_dimension(const array& a, int axis);
/// The array with dimensions of extent 1 put in front, so that it has at least two.
[[nodiscard]] array as_matrices(const array& a);
/// The array with its last two dimensions exchanged.
[[nodiscard]] array transposed(const array& a);

}  // namespace gqmm::detail
