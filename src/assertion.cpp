#include "assertion.hpp"

#include <cstdio>
#include <cstdlib>

namespace gqmm::detail {

void assertion_failed(const char* condition, const char* file, int line) noexcept {
  std::fprintf(stderr, "[gqmm] %s:%d: assertion failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace gqmm::detail
