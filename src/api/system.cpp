#include <gqmm/system.hpp>

namespace gqmm {

std::string_view version() noexcept { return GQMM_VERSION; }

// tests/conformance/contract has the digests that go with each number.
int numerics_contract() noexcept { return 1; }

}  // namespace gqmm
