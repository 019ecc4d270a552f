// Checks that all operators share: how errors are raised, products of sizes, streams, and element types.
#pragma once

#include "namespaces.hpp"

#include <gqmm/array.hpp>
#include <gqmm/stream.hpp>

#include <fmt/format.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace gqmm::detail {

/// Throws std::invalid_argument with "[op] text".
template <class... Args>
[[noreturn]] void fail(std::string_view op, fmt::format_string<Args...> text, Args&&... args) {
  throw std::invalid_argument(fmt::format("[{}] {}", op, fmt::format(text, std::forward<Args>(args)...)));
}

/// Calls function() and puts the name of the argument in front of what it throws. It serves arguments that hold several arrays,
/// because messages about these name the array alone.
template <class Function>
auto naming(std::string_view op, std::string_view name, const Function& function) {
  try {
    return function();
  } catch (const std::invalid_argument& error) {
    const std::string text = error.what();
    const std::string prefix = fmt::format("[{}] ", op);
    fail(op, "{}: {}", name, text.starts_with(prefix) ? text.substr(prefix.size()) : text);
  }
}

/// Returns a · b; both must be non-negative. Throws std::invalid_argument if the product does not fit 64 bits.
std::int64_t checked_product(std::string_view op, std::string_view what, std::int64_t a, std::int64_t b);

/// Returns the number of elements of `shape`, with the same check.
std::int64_t checked_count(std::string_view op, std::string_view what, const Shape& shape);

/// Throws std::invalid_argument if this build cannot run on the stream.
void check_stream(std::string_view op, const Stream& stream);

/// Throws std::invalid_argument if the array's type is not float16, bfloat16 or float32.
void check_compute_float(std::string_view op, std::string_view name, const array& a);

/// The type to which both types convert without loss: the same type, or else float32.
inline Dtype promote(Dtype a, Dtype b) { return a == b ? a : Dtype::float32; }

/// The coordinates of the flat row-major `position` of `shape` as text, for example "[1, 2]". The text is empty for a scalar.
std::string position_text(const Shape& shape, std::int64_t position);

/// The shape without its last two dimensions.
Shape leading_shape(const array& a);

}  // namespace gqmm::detail
