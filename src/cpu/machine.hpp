// What of the processor decides block sizes and prefetching.
#pragma once

#include <cstdint>

namespace gqmm::cpu {

struct Machine {
  std::int64_t l1_bytes;  // data cache of one core
  /// Decode's prefetches stop at L2, and ask for each line twice. Zen 4 has fewer misses of L1 in flight than it takes to hide
  /// DRAM, and drops prefetches: one row reads .65 to .84 of DRAM's speed with this, .45 to .50 without. Zen 5 reached .75 to .78
  /// without.
  bool decode_prefetches_to_l2;
};

/// This machine, found out once.
const Machine& machine();

}  // namespace gqmm::cpu
