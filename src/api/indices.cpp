#include "api/indices.hpp"

#include "api/broadcast.hpp"
#include "api/check.hpp"
#include "formats/float_types.hpp"
#include "plan/routing.hpp"

#include <gqmm/infer.hpp>

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <type_traits>
#include <utility>

namespace gqmm::detail {
namespace {

/// The shape of the operand's positions before broadcasting.
const Shape& own_shape(const IndexedOperand& operand) {
  return operand.indices != nullptr ? operand.indices->shape() : operand.leading;
}

/// The name of an index as text, for example "rhs_indices[1, 2]". A scalar has the bare name.
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
  if (count == std::numeric_limits<std::int64_t>::max()) {
    fail(op, "{} = {} is out of range: it must be {}", name, value,
         std::cmp_less(value, 0) ? std::string("0 or more") : fmt::format("below {}", count));
  }
  fail(op, "{} = {} is out of range: {} has {} {}, so indices must lie in 0 ... {}{}", name, value, operand.name, count,
       count == 1 ? "matrix" : "matrices", count - 1,
       operand.missing == Missing::zero ? ", or be negative for a row without an expert" : "");
}

template <class T>
void load_run(std::string_view op, const IndexedOperand& operand, std::int64_t count, const std::byte* address,
              std::int64_t stride, std::int64_t extent, std::vector<std::int64_t>& values) {
  for (std::int64_t i = 0; i < extent; ++i, address += stride) {
    const T value = load_unaligned<T>(address);
    if constexpr (std::is_signed_v<T>) {
      if (value < 0 && operand.missing == Missing::zero) {
        values.push_back(no_expert);
        continue;
      }
    }
    // A negative value becomes a huge unsigned one.
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

void check_ascending(std::string_view op, const IndexedOperand& operand, const std::vector<std::int64_t>& values) {
  const auto descent = std::is_sorted_until(values.begin(), values.end());
  if (descent != values.end()) {
    const auto position = static_cast<std::size_t>(descent - values.begin());
    const std::string value = *descent == no_expert ? "a negative value" : fmt::format("{}", *descent);
    fail(op, "sorted_indices is set but {} = {} follows {}; sort the pairs by {} or leave sorted_indices unset",
         name_at(operand, position), value, values[position - 1], operand.indices_name);
  }
}

/// Broadcasts positions to the shape of the pairs. `values` has the shape `from`; if `counting` is true, the values are 0, 1, …
std::vector<std::int64_t> broadcast_values(std::vector<std::int64_t> values, bool counting, const Shape& from, const Shape& to) {
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

void check_integer(std::string_view op, std::string_view name, const array& a) { run_loader(op, name, a.dtype()); }

std::vector<std::int64_t> load_indices(std::string_view op, const IndexedOperand& operand, std::int64_t count) {
  const array& indices = *operand.indices;
  const RunLoader load = run_loader(op, operand.indices_name, indices.dtype());
  std::vector<std::int64_t> values;
  values.reserve(static_cast<std::size_t>(indices.size()));
  if (indices.rank() == 0 || indices.is_row_major()) {
    load(op, operand, count, indices.bytes(), indices.itemsize(), indices.size(), values);
    return values;
  }
  // Values along the last dimension are loaded together. An odometer counts through the other dimensions.
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

Shape pair_shape(std::string_view op, const IndexedOperand& lhs, const IndexedOperand& rhs) {
  for (const IndexedOperand* operand : {&lhs, &rhs}) {
    if (operand->indices != nullptr) {
      check_integer(op, operand->indices_name, *operand->indices);
    }
  }
  const Shape& lhs_shape = own_shape(lhs);
  const Shape& rhs_shape = own_shape(rhs);
  std::optional<Shape> shape = broadcast_shapes(lhs_shape, rhs_shape);
  if (!shape) {
    const auto describe = [](const IndexedOperand& operand) {
      return operand.indices != nullptr ? std::string(operand.indices_name)
                                        : fmt::format("leading dimensions of {}", operand.name);
    };
    fail(op, "{} {} and {} {} do not broadcast; make each pair of extents equal or one of them 1", describe(lhs),
         to_string(lhs_shape), describe(rhs), to_string(rhs_shape));
  }
  checked_count(op, "the result", *shape);
  return std::move(*shape);
}

Pairs resolve_pairs(std::string_view op, const IndexedOperand& lhs, const IndexedOperand& rhs, bool sorted_indices) {
  Shape shape = pair_shape(op, lhs, rhs);
  const std::int64_t lhs_count = checked_count(op, lhs.name, lhs.leading);
  const std::int64_t rhs_count = checked_count(op, rhs.name, rhs.leading);
  std::vector<std::int64_t> lhs_values = lhs.indices != nullptr ? load_indices(op, lhs, lhs_count) : std::vector<std::int64_t>{};
  std::vector<std::int64_t> rhs_values = rhs.indices != nullptr ? load_indices(op, rhs, rhs_count) : std::vector<std::int64_t>{};
  const bool promised = sorted_indices && rhs.indices != nullptr;
  if (promised) {
    check_ascending(op, rhs, rhs_values);
  }

  Pairs pairs;
  pairs.lhs = broadcast_values(std::move(lhs_values), lhs.indices == nullptr, own_shape(lhs), shape);
  pairs.rhs = broadcast_values(std::move(rhs_values), rhs.indices == nullptr, own_shape(rhs), shape);
  // Ascending indices may no longer ascend after broadcasting has repeated them.
  pairs.sorted = promised && (own_shape(rhs) == shape || std::is_sorted(pairs.rhs.begin(), pairs.rhs.end()));
  if (rhs.missing == Missing::zero) {
    for (std::size_t pair = 0; pair < pairs.rhs.size(); ++pair) {
      if (pairs.rhs[pair] == no_expert) {
        pairs.lhs[pair] = no_expert;
      }
    }
  }
  pairs.shape = std::move(shape);
  return pairs;
}

Pairs grouped_pairs(std::string_view op, const array& offsets, std::int64_t rows, std::int64_t experts, Missing missing) {
  check_offsets(offsets, {.op = op, .rows = rows, .experts = experts, .behind = missing});
  const Shape leading = {};
  std::vector<std::int64_t> ends =
      load_indices(op, {"x", "offsets", leading, &offsets}, std::numeric_limits<std::int64_t>::max());
  const bool with_first = offsets.dim(0) == experts + 1;
  if (with_first && ends.front() != 0) {
    fail(op, "offsets[0] = {} of {} values for {} experts; the first one is where the first group begins, 0", ends.front(),
         ends.size(), experts);
  }
  for (std::size_t i = 0; i < ends.size(); ++i) {
    const std::int64_t before = i == 0 ? 0 : ends[i - 1];
    if (ends[i] < before || ends[i] > rows) {
      fail(op, "offsets[{}] = {} follows {} and x has {} rows; offsets must not decrease, nor go beyond the rows", i, ends[i],
           before, rows);
    }
  }
  const std::int64_t last = ends.empty() ? 0 : ends.back();
  if (last != rows && missing == Missing::error) {
    fail(op, "the last offset is {} but x has {} rows; pass x[:{}], or rows = \"zero\" for results of zero behind it", last, rows,
         last);
  }
  if (with_first) {
    ends.erase(ends.begin());
  }
  Pairs pairs = {.shape = {rows}, .lhs = {}, .rhs = {}, .sorted = true};
  pairs.rhs.assign(static_cast<std::size_t>(rows), no_expert);
  std::int64_t first = 0;
  for (std::size_t expert = 0; expert < ends.size(); ++expert) {
    std::fill(pairs.rhs.begin() + first, pairs.rhs.begin() + ends[expert], static_cast<std::int64_t>(expert));
    first = ends[expert];
  }
  pairs.lhs.assign(static_cast<std::size_t>(rows), no_expert);
  std::iota(pairs.lhs.begin(), pairs.lhs.begin() + last, std::int64_t{0});
  return pairs;
}

}  // namespace gqmm::detail

namespace gqmm {

using namespace detail;

std::vector<std::int64_t> checked_indices(const array& indices, const IndexedMatrices& matrices) {
  const Shape leading = {matrices.count};
  return load_indices(matrices.op, {matrices.operand, matrices.indices_name, leading, &indices}, matrices.count);
}

void check_offsets(const array& offsets, const GroupedRows& grouped) {
  const std::int64_t experts = grouped.experts;
  if (offsets.dtype() != Dtype::int32 && offsets.dtype() != Dtype::int64) {
    fail(grouped.op, "offsets has type {}; convert it to int32 or int64", name_of(offsets.dtype()));
  }
  if (offsets.rank() != 1 || (offsets.dim(0) != experts && offsets.dim(0) != experts + 1)) {
    fail(grouped.op,
         "offsets has shape {}; with {} experts it must be ({},), the end of each group, or ({},), which begins with 0",
         to_string(offsets.shape()), experts, experts, experts + 1);
  }
}

std::vector<std::int64_t> experts_of_rows(const array& offsets, const GroupedRows& grouped) {
  return grouped_pairs(grouped.op, offsets, grouped.rows, grouped.experts, grouped.behind).rhs;
}

}  // namespace gqmm
