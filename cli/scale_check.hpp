// Finds NaN and infinity among the scales of a checkpoint. Every product with such a group is NaN or infinite. A comparison with
// the reference does not show this, because the reference uses the same scales.
#pragma once

#include "io/checkpoint.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::cli {

/// The values of one array of a quantized tensor that are NaN or infinite.
struct NotFinite {
  std::string_view array;  ///< "scales", "biases" or "global_scale"
  std::int64_t count = 0;
  std::int64_t size = 0;  ///< the number of values in the array
  Shape first;            ///< the index of the first value that is not finite
};

/// One entry for each array of the tensor that has such values.
[[nodiscard]] std::vector<NotFinite> find_not_finite(const io::QuantizedTensor& tensor);

/// A text for messages: "3 of 128 scales are NaN or infinite, the first at (0, 5, 2)".
[[nodiscard]] std::string describe(const NotFinite& found);

}  // namespace gqmm::cli
