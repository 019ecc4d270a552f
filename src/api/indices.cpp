#include "api/indices.hpp"

#include "api/broadcast.hpp"
#include "api/check.hpp"
#include "formats/float_types.hpp"

#include <algorithm>
#include <string>

namespace gqmm {
namespace {

/// Of the positions that the operand has before broadcasting.
const Shape& own_shape(const IndexedOperand& operand) { return operand.indices ? operand.indices->shape() : operand.leading; }

/// "rhs_indices[1, 2]", or the bare name of a scalar.
std::string name_at(const IndexedOperand& operand, std::size_t position) {
  return std::string(operand.indices_name) + position_text(operand.indices->shape(), static_cast<std::int64_t>(position));
}

template <class T>
[[noreturn]] void fail_out_of_range(std::string_view op, const IndexedOperand& operand, std::size_t position, T value,
                                    std::int64_t count) {
  const std::string name = name_at(operand, position);
  if (count == 0) {
    fail(op, "{} = {} is out of range: {} has no matrices", name, value, operand.name);
  }
  fail(op, "{} = {} is out of range: {} has {} {}, so indices must lie in 0 ... {}", name, value, operand.name, count,
       count == 1 ? "matrix" : "matrices", count - 1);
}

template <class T>
void load_run(std::string_view op, const IndexedOperand& operand, std::int64_t count, const std::byte* address,
              std::int64_t stride, std::int64_t extent, std::vector<std::int64_t>& values) {
  for (std::int64_t i = 0; i < extent; ++i, address += stride) {
    const T value = load_unaligned<T>(address);
    // A negative value becomes a huge one.
    if (static_cast<std::uint64_t>(value) >= static_cast<std::uint64_t>(count)) {
      fail_out_of_range(op, operand, values.size(), value, count);
    }
    values.push_back(static_cast<std::int64_t>(value));
  }
}

using RunLoader = void (*)(std::string_view, const IndexedOperand&, std::int64_t, const std::byte*, std::int64_t, std::int64_t,
                           std::vector<std::int64_t>&);

RunLoader run_loader(std::string_view op, std::string_view name, Dtype dtype) {
  switch (dtype) {
    case Dtype::uint8: return load_run<std::uint8_t>;
    case Dtype::uint16: return load_run<std::uint16_t>;
    case Dtype::uint32: return load_run<std::uint32_t>;
    case Dtype::uint64: return load_run<std::uint64_t>;
    case Dtype::int8: return load_run<std::int8_t>;
    case Dtype::int16: return load_run<std::int16_t>;
    case Dtype::int32: return load_run<std::int32_t>;
    case Dtype::int64: return load_run<std::int64_t>;
    default: fail(op, "{} has type {}; convert it to an integer type", name, name_of(dtype));
  }
}

/// The values of an index array in row-major order, each checked to lie in [0, count).
std::vector<std::int64_t> load_indices(std::string_view op, const IndexedOperand& operand, std::int64_t count) {
  const array& indices = *operand.indices;
  const RunLoader load = run_loader(op, operand.indices_name, indices.dtype());
  std::vector<std::int64_t> values;
  values.reserve(static_cast<std::size_t>(indices.size()));
  const auto itemsize = static_cast<std::int64_t>(size_of(indices.dtype()));
  if (indices.rank() == 0 || indices.is_row_major()) {
    load(op, operand, count, indices.bytes(), itemsize, indices.size(), values);
    return values;
  }
  // One run along the last dimension at a time; an odometer over the others.
  const int outer = indices.rank() - 1;
  std::vector<std::int64_t> at(static_cast<std::size_t>(outer), 0);
  const std::byte* address = indices.bytes();
  while (static_cast<std::int64_t>(values.size()) < indices.size()) {
    load(op, operand, count, address, indices.stride(-1), indices.dim(-1), values);
    for (int axis = outer - 1; axis >= 0; --axis) {
      address += indices.stride(axis);
      if (++at[static_cast<std::size_t>(axis)] < indices.dim(axis)) {
        break;
      }
      address -= indices.stride(axis) * indices.dim(axis);
      at[static_cast<std::size_t>(axis)] = 0;
    }
  }
  return values;
}

void check_ascending(std::string_view op, const IndexedOperand& operand, const std::vector<std::int64_t>& values) {
  const auto descent = std::is_sorted_until(values.begin(), values.end());
  if (descent != values.end()) {
    const auto position = static_cast<std::size_t>(descent - values.begin());
    fail(op, "sorted_indices is set but {} = {} follows {}; sort the pairs by {} or leave sorted_indices unset",
         name_at(operand, position), *descent, values[position - 1], operand.indices_name);
  }
}

/// Positions in the shape of the pairs: `values` (empty: 0, 1, …) of shape `from`, repeated.
std::vector<std::int64_t> spread(std::vector<std::int64_t> values, bool counting, const Shape& from, const Shape& to) {
  if (!counting && from == to) {
    return values;
  }
  std::vector<std::int64_t> positions = broadcast_positions(from, to);
  if (!counting) {
    for (std::int64_t& position : positions) {
      position = values[static_cast<std::size_t>(position)];
    }
  }
  return positions;
}

}  // namespace

Shape pair_shape(std::string_view op, const IndexedOperand& lhs, const IndexedOperand& rhs) {
  for (const IndexedOperand* operand : {&lhs, &rhs}) {
    if (operand->indices) {
      run_loader(op, operand->indices_name, operand->indices->dtype());
    }
  }
  const Shape& lhs_shape = own_shape(lhs);
  const Shape& rhs_shape = own_shape(rhs);
  std::optional<Shape> shape = broadcast_shapes(lhs_shape, rhs_shape);
  if (!shape) {
    const auto describe = [](const IndexedOperand& operand) {
      return operand.indices ? std::string(operand.indices_name) : fmt::format("leading dimensions of {}", operand.name);
    };
    fail(op, "{} {} and {} {} do not broadcast; make each pair of extents equal or one of them 1", describe(lhs),
         to_string(lhs_shape), describe(rhs), to_string(rhs_shape));
  }
  checked_count(op, "the result", *shape);
  return std::move(*shape);
}

std::vector<std::int64_t> resolve_indices(std::string_view op, const IndexedOperand& operand) {
  return load_indices(op, operand, checked_count(op, operand.name, operand.leading));
}

Pairs resolve_pairs(std::string_view op, const IndexedOperand& lhs, const IndexedOperand& rhs, bool sorted_indices) {
  Shape shape = pair_shape(op, lhs, rhs);
  const std::int64_t lhs_count = checked_count(op, lhs.name, lhs.leading);
  const std::int64_t rhs_count = checked_count(op, rhs.name, rhs.leading);
  std::vector<std::int64_t> lhs_values = lhs.indices ? load_indices(op, lhs, lhs_count) : std::vector<std::int64_t>{};
  std::vector<std::int64_t> rhs_values = rhs.indices ? load_indices(op, rhs, rhs_count) : std::vector<std::int64_t>{};
  const bool promised = sorted_indices && rhs.indices;
  if (promised) {
    check_ascending(op, rhs, rhs_values);
  }

  Pairs pairs;
  pairs.lhs = spread(std::move(lhs_values), !lhs.indices, own_shape(lhs), shape);
  pairs.rhs = spread(std::move(rhs_values), !rhs.indices, own_shape(rhs), shape);
  // Ascending indices need not ascend once they are repeated.
  pairs.sorted = promised && (own_shape(rhs) == shape || std::is_sorted(pairs.rhs.begin(), pairs.rhs.end()));
  pairs.shape = std::move(shape);
  return pairs;
}

}  // namespace gqmm
