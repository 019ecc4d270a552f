// The interface of a file of probe loops to the rest of the benchmark.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gqmm::bench {

/// A function that reads `bytes` of memory from `data`, which is aligned to 64 bytes. It returns the number of bytes that it
/// read.
using ReadLoop = std::size_t (*)(const std::byte* data, std::size_t bytes);

struct ReadVariant {
  int streams;
  int prefetch_bytes;  // the distance of prefetches; with 0 there are none
  ReadLoop run;
};

inline constexpr int read_variant_count = 10;

/// The probe loops of one instruction set. A multiply-add counts as two operations.
struct ProbeLoops {
  const char* int8_dot_instruction;
  double int8_dot_operations;  // operations of one round
  void (*int8_dot)(std::int64_t rounds);

  const char* float32_fma_instruction;
  double float32_fma_operations;
  void (*float32_fma)(std::int64_t rounds);

  const ReadVariant* read_variants;  // an array of read_variant_count elements
};

extern const ProbeLoops portable_loops;
extern const ProbeLoops avx2_loops;
extern const ProbeLoops avxvnni_loops;
extern const ProbeLoops avx512bw_loops;
extern const ProbeLoops avx512vnni_loops;

}  // namespace gqmm::bench
