#include "cli/scale_check.hpp"

#include "formats/format.hpp"

#include <fmt/format.h>

#include <cmath>
#include <optional>

namespace gqmm::cli {
namespace {

/// The indices of element number `position` in row-major order.
Shape index_of(std::int64_t position, const Shape& shape) {
  Shape index(shape.size());
  for (std::size_t i = shape.size(); i-- > 0;) {
    index[i] = position % shape[i];
    position /= shape[i];
  }
  return index;
}

/// `values` lie row-major, as those of a file do.
std::optional<NotFinite> look_through(std::string_view name, const array& values, ScaleEncoding encoding) {
  NotFinite found = {.array = name, .size = values.size(), .first = {}};
  const std::size_t bytes = size_of(values.dtype());
  for (std::int64_t i = 0; i < found.size; ++i) {
    if (!std::isfinite(load_scale(values.bytes() + static_cast<std::size_t>(i) * bytes, encoding, values.dtype()))) {
      if (found.count == 0) {
        found.first = index_of(i, values.shape());
      }
      ++found.count;
    }
  }
  return found.count == 0 ? std::nullopt : std::optional(found);
}

}  // namespace

std::vector<NotFinite> find_not_finite(const io::QuantizedTensor& tensor) {
  std::vector<NotFinite> found;
  const auto look = [&found](std::string_view name, const array& values, ScaleEncoding encoding) {
    if (auto bad = look_through(name, values, encoding)) {
      found.push_back(std::move(*bad));
    }
  };
  look("scales", tensor.scales, tensor.format->scale_encoding);
  if (tensor.biases) {
    look("biases", *tensor.biases, ScaleEncoding::floating);
  }
  if (tensor.global_scale) {
    look("global_scale", *tensor.global_scale, ScaleEncoding::floating);
  }
  return found;
}

std::string describe(const NotFinite& found) {
  return fmt::format("{} of {} {} are NaN or infinite, the first at {}", found.count, found.size,
                     found.array == "global_scale" ? "values of global_scale" : found.array, to_string(found.first));
}

}  // namespace gqmm::cli
