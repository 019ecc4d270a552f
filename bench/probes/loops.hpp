// What a file of probe loops offers to the rest of the benchmark.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gqmm::bench {

/// Reads memory from `data`, aligned to 64 bytes, on; returns how many of the `bytes` it has read.
using ReadLoop = std::size_t (*)(const std::byte* data, std::size_t bytes);

struct ReadVariant {
  int streams;
  int prefetch_bytes;  // 0: none
  ReadLoop run;
};

inline constexpr int read_variant_count = 10;

/// A multiply-add counts as two operations throughout.
struct ProbeLoops {
  const char* int8_dot_instruction;
  double int8_dot_operations;  // of one round
  void (*int8_dot)(std::int64_t rounds);

  const char* float32_fma_instruction;
  double float32_fma_operations;
  void (*float32_fma)(std::int64_t rounds);

  const ReadVariant* read_variants;  // read_variant_count of them
};

extern const ProbeLoops portable_loops;
extern const ProbeLoops avx2_loops;
extern const ProbeLoops avx_vnni_loops;
extern const ProbeLoops avx512_loops;
extern const ProbeLoops avx512_vnni_loops;

}  // namespace gqmm::bench
