#include "api/output.hpp"

#include "api/check.hpp"

#include <cstdint>

namespace gqmm::detail {
namespace {

/// The addresses [first, last) of the bytes of an array.
struct Addresses {
  std::uintptr_t first;
  std::uintptr_t last;
};

Addresses addresses_of(const array& a) {
  const auto base = reinterpret_cast<std::uintptr_t>(a.bytes());
  if (a.size() == 0) {
    return {base, base};
  }
  Addresses range = {base, base + static_cast<std::uintptr_t>(a.itemsize())};
  for (int axis = 0; axis < a.rank(); ++axis) {
    const std::int64_t reach = (a.dim(axis) - 1) * a.stride(axis);
    (reach < 0 ? range.first : range.last) += static_cast<std::uintptr_t>(reach);
  }
  return range;
}

}  // namespace

array make_result(std::string_view op, const Shape& shape, Dtype dtype, const std::optional<array>& out,
                  std::span<const NamedOperand> operands, std::string_view name) {
  checked_product(op, "bytes of the result", checked_count(op, "the result", shape), static_cast<std::int64_t>(size_of(dtype)));
  if (!out) {
    return array::empty(shape, dtype);
  }
  if (out->shape() != shape || out->dtype() != dtype) {
    fail(op, "{} is {} {} but the result is {} {}; allocate it so", name, name_of(out->dtype()), to_string(out->shape()),
         name_of(dtype), to_string(shape));
  }
  if (!out->is_row_major()) {
    fail(op, "{} of shape {} is not row-major; pass contiguous memory", name, to_string(shape));
  }
  if (!out->is_writable()) {
    fail(op, "{} is read-only; make it with array::empty or array::borrow_mut", name);
  }
  const Addresses target = addresses_of(*out);
  for (const auto& [operand_name, operand] : operands) {
    if (operand == nullptr || operand->size() == 0 || out->size() == 0) {
      continue;
    }
    const Addresses source = addresses_of(*operand);
    if (source.first < target.last && target.first < source.last) {
      fail(op, "{} overlaps the memory of {}; pass memory of its own", name, operand_name);
    }
  }
  return *out;
}

}  // namespace gqmm::detail
