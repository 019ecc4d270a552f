// Properties of the processor that decide block sizes and prefetching.
#pragma once

#include <cstdint>

namespace gqmm::cpu {

struct Processor {
  std::int64_t l1_bytes;  // size of the L1 data cache of one core
  /// Whether the decode kernels prefetch into L2 only and prefetch each line twice. Zen 4 needs this. It drops prefetches,
  /// because the misses that its L1 can have in flight are too few to hide the latency of DRAM. One row reads at .65 to .84 of
  /// DRAM's speed with this, and at .45 to .50 without. Zen 5 reached .75 to .78 without.
  bool decode_prefetches_to_l2;
};

/// The properties of this machine's processor. They are found once.
const Processor& processor();

}  // namespace gqmm::cpu
