// rope: the checks of its arguments.
#include "cpu/rope.hpp"

#include "api/check.hpp"
#include "api/indices.hpp"
#include "api/loaded_values.hpp"
#include "api/output.hpp"
#include "cpu/float_environment.hpp"
#include "cpu/rotary_angles.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/infer.hpp>
#include <gqmm/rope.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view rope_op = "rope";
constexpr std::int64_t farthest_position = std::int64_t{1} << 40;
constexpr double largest_angle = 0x1p40;  // beyond it, angles have lost their digits in float64

void check_frequencies(int dims, const RopeOptions& options) {
  if (options.base.has_value() == options.freqs.has_value()) {
    fail(rope_op, "base and freqs are both {}; pass one of them", options.base ? "given" : "missing");
  }
  if (options.base && (!(*options.base > 0) || !std::isfinite(*options.base))) {
    fail(rope_op, "base = {} is not a positive finite number; pass the model's, such as 10000", *options.base);
  }
  if (options.freqs) {
    check_compute_float(rope_op, "freqs", *options.freqs);
    if (options.freqs->shape() != Shape{dims / 2}) {
      fail(rope_op, "freqs has shape {}; it must be ({},), a number for each pair", to_string(options.freqs->shape()), dims / 2);
    }
  }
  if (!std::isfinite(options.scale)) {
    fail(rope_op, "scale = {} is not finite; pass 1 to leave positions as they are", options.scale);
  }
}

void check_offset(const array& offset, std::int64_t batch) {
  check_integer(rope_op, "offset", offset);
  if (offset.rank() > 1 || (offset.size() != 1 && offset.size() != batch)) {
    fail(rope_op, "offset has shape {}; it must be one integer, or ({},), one for each batch element", to_string(offset.shape()),
         batch);
  }
}

std::int64_t checked_offset(std::optional<std::int64_t> offset) {
  if (!offset || *offset < -farthest_position || *offset > farthest_position) {
    fail(rope_op, "offset = {} is not within ±2^40; pass the position of the first row",
         offset ? std::to_string(*offset) : "a number beyond 2^63");
  }
  return *offset;
}

std::vector<std::int64_t> load_offsets(const std::variant<std::int64_t, array>& offset, std::int64_t batch) {
  const auto count = static_cast<std::size_t>(batch);
  if (const auto* number = std::get_if<std::int64_t>(&offset)) {
    return std::vector<std::int64_t>(count, checked_offset(*number));
  }
  const array& given = std::get<array>(offset);
  std::vector<std::int64_t> offsets;
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t at = given.size() == 1 ? 0 : b * given.strides()[0];
    offsets.push_back(checked_offset(load_integer(given.bytes() + at, given.dtype())));
  }
  return offsets;
}

std::vector<double> frequencies(int dims, const RopeOptions& options) {
  const cpu::FloatEnvironment environment;  // the caller may round otherwise
  std::vector<double> values;
  if (options.base) {
    values = cpu::frequencies_of_base(static_cast<double>(*options.base), dims / 2);
  } else {
    for (const float freq : load_vector(*options.freqs)) {
      values.push_back(1.0 / static_cast<double>(freq));
    }
  }
  for (double& value : values) {
    value *= static_cast<double>(options.scale);
  }
  return values;
}

/// Throws if the angles of some position are too large, or NaN.
void check_angles(const std::vector<double>& frequencies, const std::vector<std::int64_t>& offsets, std::int64_t rows) {
  std::int64_t farthest = 0;
  for (const std::int64_t offset : offsets) {
    farthest = std::max({farthest, std::abs(offset), std::abs(offset + rows)});
  }
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    if (!(std::fabs(frequencies[i]) * static_cast<double>(farthest) <= largest_angle)) {
      fail(rope_op, "pair {} turns by {} for each position, and positions reach {}; angles must stay within 2^40, so check {}", i,
           frequencies[i], farthest, "base, freqs and scale");
    }
  }
}

}  // namespace

ResultType infer_rope(const array& x, int dims, const RopeOptions& options) {
  check_compute_float(rope_op, "x", x);
  if (x.rank() < 3) {
    fail(rope_op, "x has shape {}; it must have at least three dimensions, (B, …, T, D)", to_string(x.shape()));
  }
  if (dims < 2 || dims % 2 != 0 || dims > x.dim(-1)) {
    fail(rope_op, "dims = {} is not an even number from 2 to {}, the last dimension of x", dims, x.dim(-1));
  }
  check_frequencies(dims, options);
  if (const auto* offset = std::get_if<array>(&options.offset)) {
    check_offset(*offset, x.dim(0));
  }
  check_stream(rope_op, options.stream);
  return {x.shape(), x.dtype()};
}

array rope(const array& x, int dims, const RopeOptions& options) {
  const threads::NodeBinding binding(options.stream);
  const ResultType type = infer_rope(x, dims, options);
  const NamedOperand operands[] = {
      {"x", &x}, {"offset", std::get_if<array>(&options.offset)}, {"freqs", options.freqs ? &*options.freqs : nullptr}};
  std::vector<std::int64_t> offsets = load_offsets(options.offset, x.dim(0));
  std::vector<double> of_pairs = frequencies(dims, options);
  check_angles(of_pairs, offsets, x.dim(-2));
  array result = make_result(rope_op, type.shape, type.dtype, options.out, operands);
  if (result.size() > 0) {
    cpu::rope({.x = MatrixBatch(x),
               .batch = x.dim(0),
               .traditional = options.traditional,
               .frequencies = std::move(of_pairs),
               .offsets = std::move(offsets),
               .y = result.mutable_bytes(),
               .threads = options.stream.threads});
  }
  return result;
}

}  // namespace gqmm
