#include "cpu/machine.hpp"

#include "cpu/cpuid.hpp"
#include "threads/first_use.hpp"

#include <unistd.h>

namespace gqmm::cpu {
namespace {

// sysconf knows no caches on some systems (0 or −1): then what every processor of the last ten years has at least.
constexpr std::int64_t least_l1_bytes = 32 * 1024;

std::int64_t l1_bytes() {
  const std::int64_t bytes = sysconf(_SC_LEVEL1_DCACHE_SIZE);
  return bytes > 0 ? bytes : least_l1_bytes;
}

bool is_zen3_or_zen4() {
#if defined(__x86_64__)
  return find_zen3_or_zen4(this_processor());
#else
  return false;
#endif
}

}  // namespace

const Machine& machine() {
  constinit static threads::FirstUse<const Machine> found;
  return found.get([] { return Machine{.l1_bytes = l1_bytes(), .decode_prefetches_to_l2 = is_zen3_or_zen4()}; });
}

}  // namespace gqmm::cpu
