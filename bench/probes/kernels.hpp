// The loops whose speed is a limit of the machine: int8 dot products and float32 multiply-adds in registers, and reads from
// memory. Included once per instruction set by a file compiled for it; nothing but its ProbeLoops may leave that file with
// external linkage (an inline function could replace another set's copy at link time), hence the unnamed namespace and the
// absence of standard library code.
#pragma once

#include "loops.hpp"

#include <cstddef>
#include <cstdint>

namespace gqmm::bench {
namespace {

// 12 chains cover latency × throughput of every core that this was written for (5 cycles × 2 per cycle) and fit, with operands,
// into 16 registers.
inline constexpr int chains = 12;

/// A value that the compiler cannot know.
template <class T>
T opaque(T value) {
  volatile T copy = value;
  return copy;
}

/// Makes the compiler compute `value`.
template <class T>
void consume(const T& value) {
  asm volatile("" : : "m"(value));
}

/// Reads `bytes` of memory as `streams` streams side by side, each in ascending order, optionally asking for the line
/// `prefetch_bytes` ahead. Returns the number of bytes read: streams have an odd number of lines each, so that they don't meet
/// in the same sets of the caches.
template <int vector_bytes, int streams, int prefetch_bytes>
std::size_t read_memory(const std::byte* data, std::size_t bytes) {
  using Vector = std::uint64_t __attribute__((vector_size(vector_bytes), may_alias));
  constexpr std::size_t line = 64;
  const std::size_t lines = (bytes / line / streams - 1) | 1U;
  const std::size_t length = lines * line;
  Vector sums[streams] = {};
  for (std::size_t offset = 0; offset < length; offset += line) {
    for (int stream = 0; stream < streams; ++stream) {
      const std::byte* address = data + static_cast<std::size_t>(stream) * length + offset;
      if constexpr (prefetch_bytes > 0) {
        __builtin_prefetch(address + prefetch_bytes);
      }
      for (std::size_t part = 0; part < line; part += sizeof(Vector)) {
        sums[stream] ^= *reinterpret_cast<const Vector*>(address + part);
      }
    }
  }
  for (const Vector& sum : sums) {
    consume(sum);
  }
  return length * streams;
}

// The variants of which the best is the machine's read bandwidth. Prefetching helps where a core's own prefetcher stops at 4 KiB
// pages; the distance that helps depends on latency × bandwidth.
template <int vector_bytes>
inline constexpr ReadVariant read_variants_of[] = {
    {1, 0, read_memory<vector_bytes, 1, 0>},       {2, 0, read_memory<vector_bytes, 2, 0>},
    {4, 0, read_memory<vector_bytes, 4, 0>},       {8, 0, read_memory<vector_bytes, 8, 0>},
    {1, 2048, read_memory<vector_bytes, 1, 2048>}, {2, 2048, read_memory<vector_bytes, 2, 2048>},
    {4, 2048, read_memory<vector_bytes, 4, 2048>}, {8, 1024, read_memory<vector_bytes, 8, 1024>},
    {1, 8192, read_memory<vector_bytes, 1, 8192>}, {4, 8192, read_memory<vector_bytes, 4, 8192>},
};

}  // namespace
}  // namespace gqmm::bench
