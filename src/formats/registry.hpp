// The list of weight formats. A new format is a header with a struct of constants and one line here. The modes, their names and
// their defaults follow from the list.
#pragma once

#include "formats/affine.hpp"
#include "formats/microscaling.hpp"
#include "internal_api.hpp"

#include <span>
#include <string_view>
#include <vector>

namespace gqmm::detail {

template <class... Formats>
struct TypeList {};

using AllFormats = TypeList<Affine<1>, Affine<2>, Affine<3>, Affine<4>, Affine<5>, Affine<6>, Affine<8>,  //
                            Mxfp4, Mxfp8, Nvfp4>;

/// Every format, in the order of AllFormats.
GQMM_INTERNAL_API std::span<const Format> formats();

/// The format of `mode` with `bits`, or nullptr if there is none.
GQMM_INTERNAL_API const Format* find_format(Mode mode, int bits);

/// The format of `mode` for a caller who does not state the bits.
GQMM_INTERNAL_API const Format& default_format(Mode mode);

/// The bits that `mode` has formats for.
std::vector<int> bits_of(Mode mode);

/// A format and the number of codes that share a scale.
struct QuantizationSettings {
  const Format* format;
  int group_size;
};

/// Returns the settings that a caller asks for. MLX's defaults stand in for `bits` and `group_size` that are nullptr. Throws
/// std::invalid_argument for values that no format of the mode has. Its message begins with "[op] ".
GQMM_INTERNAL_API QuantizationSettings resolve_settings(std::string_view op, Mode mode, const int* bits, const int* group_size);

/// The position of a format in AllFormats, for tables of kernels.
inline std::size_t index_of(const Format& format) { return static_cast<std::size_t>(&format - formats().data()); }

}  // namespace gqmm::detail
