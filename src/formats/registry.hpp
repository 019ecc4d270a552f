// The list of weight formats. A new format is a header with a struct of constants and one line here.
#pragma once

#include "formats/affine.hpp"
#include "formats/microscaling.hpp"

#include <gqmm/export.hpp>

#include <span>
#include <string_view>

namespace gqmm {

template <class... Formats>
struct TypeList {};

using AllFormats = TypeList<Affine<1>, Affine<2>, Affine<3>, Affine<4>, Affine<5>, Affine<6>, Affine<8>,  //
                            Mxfp4, Mxfp8, Nvfp4>;

/// Every format, in the order of AllFormats.
GQMM_API std::span<const Format> formats();

/// The format of `mode` with `bits` (nullptr: none).
GQMM_API const Format* find_format(Mode mode, int bits);

struct QuantizationSettings {
  const Format* format;
  int group_size;
};

/// Fills in MLX's defaults. Throws std::invalid_argument, prefixed with "[op] ", for bits or group_size out of the table.
GQMM_API QuantizationSettings resolve_settings(std::string_view op, Mode mode, const int* bits, const int* group_size);

/// Position of a format in AllFormats, for tables of kernels.
inline std::size_t index_of(const Format& format) { return static_cast<std::size_t>(&format - formats().data()); }

}  // namespace gqmm
