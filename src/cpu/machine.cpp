#include "cpu/machine.hpp"

#include "threads/first_use.hpp"

#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace gqmm::cpu {
namespace {

// sysconf knows no caches on some systems (0 or −1): then what every processor of the last ten years has at least.
constexpr std::int64_t least_l1_bytes = 32 * 1024;

std::int64_t l1_bytes() {
  const std::int64_t bytes = sysconf(_SC_LEVEL1_DCACHE_SIZE);
  return bytes > 0 ? bytes : least_l1_bytes;
}

/// AMD's family 19h: Zen 3 and Zen 4. (GCC 12 and its libgcc have no name for Zen 4.)
bool is_zen3_or_zen4() {
#if defined(__x86_64__)
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid(0, &eax, &ebx, &ecx, &edx) == 0 || ebx != signature_AMD_ebx) {
    return false;
  }
  __get_cpuid(1, &eax, &ebx, &ecx, &edx);
  const unsigned family = (eax >> 8 & 0xfU) + (eax >> 20 & 0xffU);
  return family == 0x19;
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
