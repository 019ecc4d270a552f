// Checks for the numbers of options. CLI11's own checks are not used, because their messages have the range of a double, with 309
// digits.
#pragma once

#include <CLI/CLI.hpp>
#include <concepts>
#include <cstdint>
#include <limits>

namespace gqmm::tools {

/// A whole number from 1 to `most`.
CLI::Validator whole_number_to(std::int64_t most);
/// A finite number above 0.
CLI::Validator positive_number();

/// A number above 0 that T holds.
template <class T>
CLI::Validator above_zero() {
  if constexpr (std::floating_point<T>) {
    return positive_number();
  } else {
    return whole_number_to(std::numeric_limits<T>::max());
  }
}

}  // namespace gqmm::tools
