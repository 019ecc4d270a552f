// lhs_indices and rhs_indices: from the caller's arrays to one flat position per pair and operand.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace gqmm {

/// An operand that index arrays select matrices of.
struct IndexedOperand {
  std::string_view name;          // as the caller knows it: "x", "w"
  std::string_view indices_name;  // "lhs_indices", "rhs_indices"
  const Shape& leading;
  const std::optional<array>& indices;
};

/// The pairs of a product: matrix lhs[i] of the one operand times matrix rhs[i] of the other.
struct Pairs {
  Shape shape;
  std::vector<std::int64_t> lhs;
  std::vector<std::int64_t> rhs;
  bool sorted = false;  // rhs is known to ascend
};

/// The shape of the pairs alone: checks everything of resolve_pairs but the positions, which it does not read.
Shape pair_shape(std::string_view op, const IndexedOperand& lhs, const IndexedOperand& rhs);

/// The positions of operand.indices, which must be there, in row-major order. Throws std::invalid_argument for another type than
/// integers and for positions out of range.
GQMM_API std::vector<std::int64_t> resolve_indices(std::string_view op, const IndexedOperand& operand);

/// Both index arrays absent: the leading shapes broadcast. One absent: it counts its operand's matrices, in the shape of its
/// leading dimensions. The two then broadcast together. Throws std::invalid_argument for shapes that do not broadcast, types
/// other than integers, positions out of range, and, if `sorted_indices` promises otherwise, rhs indices that descend.
Pairs resolve_pairs(std::string_view op, const IndexedOperand& lhs, const IndexedOperand& rhs, bool sorted_indices);

}  // namespace gqmm
