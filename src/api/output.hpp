// The result of an operator: allocated, or the caller's memory after it has been checked.
#pragma once

#include <gqmm/array.hpp>

#include <initializer_list>
#include <optional>
#include <string_view>

namespace gqmm {

struct NamedOperand {
  std::string_view name;
  const array* operand;  // null: not given
};

/// Throws std::invalid_argument if the result's size exceeds 64 bits, or if `out` is given and is not row-major, of this shape
/// and type, writable, and clear of the memory between the first and the last byte of each operand.
array make_result(std::string_view op, const Shape& shape, Dtype dtype, const std::optional<array>& out,
                  std::initializer_list<NamedOperand> operands);

}  // namespace gqmm
