#include "api/loaded_values.hpp"

#include "cpu/float_environment.hpp"
#include "formats/float_types.hpp"

#include <limits>

namespace gqmm::detail {

std::vector<float> load_vector(const array& a) {
  const cpu::FloatEnvironment environment;  // a conversion may meet subnormals
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(a.dim(0)));
  for (std::int64_t i = 0; i < a.dim(0); ++i) {
    values.push_back(load_float(a.bytes() + i * a.strides()[0], a.dtype()));
  }
  return values;
}

std::optional<std::int64_t> load_integer(const std::byte* address, Dtype dtype) {
  switch (dtype) {
    case Dtype::uint8: return load_unaligned<std::uint8_t>(address);
    case Dtype::uint16: return load_unaligned<std::uint16_t>(address);
    case Dtype::uint32: return load_unaligned<std::uint32_t>(address);
    case Dtype::uint64: {
      const auto value = load_unaligned<std::uint64_t>(address);
      constexpr std::uint64_t largest = std::numeric_limits<std::int64_t>::max();
      return value > largest ? std::nullopt : std::optional(static_cast<std::int64_t>(value));
    }
    case Dtype::int8: return load_unaligned<std::int8_t>(address);
    case Dtype::int16: return load_unaligned<std::int16_t>(address);
    case Dtype::int32: return load_unaligned<std::int32_t>(address);
    default: return load_unaligned<std::int64_t>(address);
  }
}

}  // namespace gqmm::detail
