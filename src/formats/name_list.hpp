// The names of an enumeration's values, in the order of the values.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string_view>

namespace gqmm::detail {

/// Returns the position of a name in a list. Throws std::invalid_argument, as operator `op`, for a name that is not in it. The
/// text calls the name a `what` and lists those that there are.
template <class Names>
std::size_t position_of(const Names& names, std::string_view name, std::string_view op, std::string_view what) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    throw std::invalid_argument(
        fmt::format("[{}] unknown {} \"{}\"; use one of \"{}\"", op, what, name, fmt::join(names, "\", \"")));
  }
  return static_cast<std::size_t>(found - names.begin());
}

}  // namespace gqmm::detail
