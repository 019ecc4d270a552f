// Operands in every arrangement of memory that the contract allows.
#pragma once

#include "conformance/support/random.hpp"

#include <gqmm/array.hpp>

#include <cstddef>
#include <span>
#include <string_view>

namespace gqmm::conformance {

enum class Layout {
  contiguous,   ///< row-major, as aligned as its size is; the end borders on an inaccessible page
  odd_address,  ///< row-major, first byte at an odd address
  sliced,       ///< every second row (and every third matrix) of something larger
  reversed,     ///< negative strides on all dimensions but the last
  permuted,     ///< leading dimensions and rows in another order in memory
  broadcast,    ///< stride zero on the outermost dimension
  wild,         ///< any order, step and sign on every dimension, the last one included; odd addresses
};
inline constexpr Layout all_layouts[] = {Layout::contiguous, Layout::odd_address, Layout::sliced, Layout::reversed,
                                         Layout::permuted,   Layout::broadcast,   Layout::wild};

std::string_view name_of(Layout layout);

/// Copies row-major `contents` into read-only, guarded memory in the given arrangement. Bytes between the elements are 0xff
/// (NaN). Along a dimension of stride zero the last element counts.
array lay_out(std::span<const std::byte> contents, const Shape& shape, Dtype dtype, Layout layout, Random& random);

}  // namespace gqmm::conformance
