// NaN and infinity among the scales of a checkpoint: every product with such a group is lost, and no comparison with a reference
// would show it, because the reference has them too.
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
  std::int64_t size = 0;  ///< of the array
  Shape first;            ///< where the first of them lies
};

/// One entry for each array that has any.
[[nodiscard]] std::vector<NotFinite> find_not_finite(const io::QuantizedTensor& tensor);

/// "3 of 128 scales are NaN or infinite, the first at (0, 5, 2)".
[[nodiscard]] std::string describe(const NotFinite& found);

}  // namespace gqmm::cli
