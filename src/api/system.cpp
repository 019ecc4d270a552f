#include <gqmm/system.hpp>

namespace gqmm {

std::string_view version() noexcept { return GQMM_VERSION; }

}  // namespace gqmm
