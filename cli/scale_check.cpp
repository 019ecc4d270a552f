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

/// Searches an array for NaN and infinity. `values` must be row-major, as the arrays of a file are.
std::optional<NotFinite> search(std::string_view name, const array& values, detail::ScaleEncoding encoding) {
  NotFinite found = {.array = name, .size = values.size(), .first = {}};
  for (std::int64_t i = 0; i < found.size; ++i) {
    if (!std::isfinite(load_scale(values.bytes() + i * values.itemsize(), encoding, values.dtype()))) {
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
  const auto look = [&found](std::string_view name, const array& values, detail::ScaleEncoding encoding) {
    if (auto bad = search(name, values, encoding)) {
      found.push_back(std::move(*bad));
    }
  };
  look("scales", tensor.weights.scales, tensor.format().scale_encoding);
  if (tensor.weights.biases) {
    look("biases", *tensor.weights.biases, detail::ScaleEncoding::floating);
  }
  if (tensor.weights.global_scale) {
    look("global_scale", *tensor.weights.global_scale, detail::ScaleEncoding::floating);
  }
  return found;
}

std::string describe(const NotFinite& found) {
  return fmt::format("{} of {} {} are NaN or infinite, the first at {}", found.count, found.size,
                     found.array == "global_scale" ? "values of global_scale" : found.array, to_string(found.first));
}

}  // namespace gqmm::cli
