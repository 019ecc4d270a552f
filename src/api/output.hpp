// The result of an operator: newly allocated memory, or the caller's memory after checks.
#pragma once

#include "namespaces.hpp"

#include <gqmm/array.hpp>

#include <optional>
#include <span>
#include <string_view>

namespace gqmm::detail {

struct NamedOperand {
  std::string_view name;
  const array* operand;  // nullptr if it was not given
};

/// Makes the result. Throws std::invalid_argument
/// - if the size of the result does not fit 64 bits,
/// - if `out` is given and is not row-major, writable, and of this shape and type,
/// - if `out` overlaps the memory between the first and the last byte of an operand.
array make_result(std::string_view op, const Shape& shape, Dtype dtype, const std::optional<array>& out,
                  std::span<const NamedOperand> operands, std::string_view name = "out");

}  // namespace gqmm::detail
