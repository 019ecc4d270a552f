// The texts about formats in help texts, messages and docstrings. They are made from the registry of formats.
#pragma once

#include "internal_api.hpp"
#include "namespaces.hpp"

#include <gqmm/types.hpp>

#include <string>

namespace gqmm::detail {

GQMM_INTERNAL_API std::string list_of_modes();        ///< "affine, mxfp4, mxfp8 or nvfp4"
GQMM_INTERNAL_API std::string list_of_bits();         ///< "1, 2, 3, 4 (default), 5, 6 or 8 for affine, 4 for mxfp4 and nvfp4, …"
GQMM_INTERNAL_API std::string list_of_group_sizes();  ///< "32, 64 (default) or 128 for affine, 32 for mxfp4 and mxfp8, …"
GQMM_INTERNAL_API std::string list_of_scale_types();  ///< "float8_e8m0fnu for mxfp4 and mxfp8, float8_e4m3fn for nvfp4"
GQMM_INTERNAL_API std::string list_of_modes_with_global_scale();  ///< "nvfp4"

/// The reason why `mode` takes no global scale: `mode "affine" has none; only "nvfp4" takes it`.
GQMM_INTERNAL_API std::string text_without_global_scale(Mode mode);

}  // namespace gqmm::detail
