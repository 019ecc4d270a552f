// Converts lhs_indices and rhs_indices from the caller's arrays to one flat position for each pair and operand.
#pragma once

#include "internal_api.hpp"
#include "namespaces.hpp"

#include <gqmm/array.hpp>
#include <gqmm/types.hpp>

#include <cstdint>
#include <string_view>
#include <vector>

namespace gqmm::detail {

/// An operand whose matrices are selected by an index array.
struct IndexedOperand {
  std::string_view name;          // name as the caller knows it: "x", "w"
  std::string_view indices_name;  // "lhs_indices", "rhs_indices"
  const Shape& leading;
  const array* indices;              // nullptr if there are none
  Missing missing = Missing::error;  // what a negative index means
};

/// The pairs of a product. Pair i multiplies matrix lhs[i] of one operand by matrix rhs[i] of the other. A pair that is missing
/// has no_expert (plan/routing.hpp) in both.
struct Pairs {
  Shape shape;
  std::vector<std::int64_t> lhs;
  std::vector<std::int64_t> rhs;
  bool sorted = false;  // true if rhs is known to ascend
};

/// Returns only the shape of the pairs. It checks all that resolve_pairs checks except the positions, which it does not read.
Shape pair_shape(std::string_view op, const IndexedOperand& lhs, const IndexedOperand& rhs);

/// Throws std::invalid_argument if the array's type is not an integer type.
void check_integer(std::string_view op, std::string_view name, const array& a);

/// Returns the values of the operand's index array in row-major order. Throws std::invalid_argument for another type than
/// integers and for a value outside 0 … count − 1. If operand.missing is Missing::zero, negative values become no_expert.
std::vector<std::int64_t> load_indices(std::string_view op, const IndexedOperand& operand, std::int64_t count);

/// Resolves the pairs. If both index arrays are missing, the leading shapes broadcast. If one is missing, it counts its operand's
/// matrices, in the shape of its leading dimensions; then the two broadcast together. Throws std::invalid_argument
/// - for shapes that do not broadcast,
/// - for types that are no integers,
/// - for positions out of range,
/// - if `sorted_indices` is true and rhs indices descend.
Pairs resolve_pairs(std::string_view op, const IndexedOperand& lhs, const IndexedOperand& rhs, bool sorted_indices);

/// The pairs of a product over `rows` rows that are sorted by expert: one for each row. `offsets` are those of grouped_qmm.
/// Throws std::invalid_argument if they are not. Rows behind the last group are missing if `missing` is Missing::zero, else an
/// error.
Pairs grouped_pairs(std::string_view op, const array& offsets, std::int64_t rows, std::int64_t experts, Missing missing);

}  // namespace gqmm::detail
