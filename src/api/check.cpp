#include "api/check.hpp"

#include "threads/memory_nodes.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/system.hpp>

#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

namespace gqmm::detail {
namespace {

void check_node(std::string_view op, int node) {
  if (threads::NodeBinding::node() == node || threads::usable_processors_of(node)) {
    return;
  }
  std::vector<int> usable;
  for (const MemoryNode& each : memory_nodes()) {
    usable.push_back(each.number);
  }
  fail(op, "stream.node = {} is no memory node of which this thread may use a processor; give one of {}, or none for any", node,
       fmt::join(usable, ", "));
}

}  // namespace

std::int64_t checked_product(std::string_view op, std::string_view what, std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) {
    fail(op, "{} = {} * {} exceeds 64 bits; split the call", what, a, b);
  }
  return product;
}

std::int64_t checked_count(std::string_view op, std::string_view what, const Shape& shape) {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) {
    return 0;
  }
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) {
    if (__builtin_mul_overflow(count, extent, &count)) {
      fail(op, "{} of shape {} has more elements than 64 bits can count; split the call", what, to_string(shape));
    }
  }
  return count;
}

void check_stream(std::string_view op, const Stream& stream) {
  if (stream.device.type != DeviceType::cpu || stream.device.index != 0) {
    fail(op, "stream on device (type {}, index {}) is not supported; this build has the CPU only, type 0 and index 0",
         static_cast<int>(stream.device.type), stream.device.index);
  }
  if (stream.threads < 0) {
    fail(op, "stream.threads = {} is negative; use 0 for as many as the machine grants", stream.threads);
  }
  if (stream.threads > Stream::max_threads) {
    fail(op, "stream.threads = {} exceeds {}; use 0 for as many as the machine grants", stream.threads, Stream::max_threads);
  }
  if (stream.node) {
    check_node(op, *stream.node);
  }
}

void check_compute_float(std::string_view op, std::string_view name, const array& a) {
  if (!is_compute_float(a.dtype())) {
    fail(op, "{} has type {}; convert it to float32, float16 or bfloat16{}", name, name_of(a.dtype()),
         a.dtype() == Dtype::uint16 ? ", or view it as bfloat16 if these are its bits" : "");
  }
}

std::string position_text(const Shape& shape, std::int64_t position) {
  std::vector<std::int64_t> at(shape.size());
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    at[axis] = position % shape[axis];
    position /= shape[axis];
  }
  return at.empty() ? "" : fmt::format("[{}]", fmt::join(at, ", "));
}

Shape leading_shape(const array& a) { return {a.shape().begin(), a.shape().end() - 2}; }

}  // namespace gqmm::detail
