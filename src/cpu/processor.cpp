#include "cpu/processor.hpp"

#include "cpu/cpuid.hpp"
#include "threads/first_use.hpp"

#include <unistd.h>

namespace gqmm::cpu {
namespace {

// The L1 size of every processor of the last ten years is at least this. It is used where sysconf does not know the size and
// returns 0 or −1.
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

const Processor& processor() {
  constinit static threads::FirstUse<const Processor> found;
  return found.get([] { return Processor{.l1_bytes = l1_bytes(), .decode_prefetches_to_l2 = is_zen3_or_zen4()}; });
}

}  // namespace gqmm::cpu
