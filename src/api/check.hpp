// What every operator checks the same way: how errors are raised, products of sizes, streams, element types.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/stream.hpp>

#include <fmt/format.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace gqmm {

/// Throws std::invalid_argument with "[op] text".
template <class... Args>
[[noreturn]] void fail(std::string_view op, fmt::format_string<Args...> text, Args&&... args) {
  throw std::invalid_argument(fmt::format("[{}] {}", op, fmt::format(text, std::forward<Args>(args)...)));
}

/// a · b, both non-negative; throws where it exceeds 64 bits.
std::int64_t checked_product(std::string_view op, std::string_view what, std::int64_t a, std::int64_t b);

/// Number of elements of `shape`, likewise.
std::int64_t checked_count(std::string_view op, std::string_view what, const Shape& shape);

/// Throws unless this build can run on the stream.
void check_stream(std::string_view op, const Stream& stream);

/// Throws unless the array's type is float16, bfloat16 or float32.
void check_compute_float(std::string_view op, std::string_view name, const array& a);

/// The type that both convert to without loss: the same type, else float32.
inline Dtype promote(Dtype a, Dtype b) { return a == b ? a : Dtype::float32; }

/// "[1, 2]", the coordinates of the flat row-major `position` of `shape`; empty for a scalar.
std::string position_text(const Shape& shape, std::int64_t position);

/// The shape without its last two dimensions.
Shape leading_shape(const array& a);

}  // namespace gqmm
