// The loops whose speed is a limit of the machine: int8 dot products and float32 multiply-adds in registers, and reads from
// memory. For each instruction set, one file is compiled for it and includes this header. Only the ProbeLoops of that file may
// have external linkage. Otherwise the linker could replace an inline function by the copy of another set. Therefore the header
// has an unnamed namespace and uses no code of the standard library.
#pragma once

#include "loops.hpp"

#include <cstddef>
#include <cstdint>

namespace gqmm::bench {
namespace {

// 12 chains cover latency × throughput of every core that this was written for: 5 cycles × 2 per cycle. With the operands they
// fit into 16 registers.
inline constexpr int chains = 12;

/// Returns a value that the compiler cannot know.
template <class T>
T opaque(T value) {
  volatile T copy = value;
  return copy;
}

/// Uses `value`, so that the compiler must compute it.
template <class T>
void consume(const T& value) {
  asm volatile("" : : "m"(value));
}

/// Reads `bytes` of memory as `streams` streams side by side, each in ascending order. It can prefetch the line that is
/// `prefetch_bytes` ahead. Each stream has an odd number of lines, so that the streams do not use the same sets of the caches.
/// Returns the number of bytes read, which may therefore be less than `bytes`.
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

// The variants of reading memory. The rate of the best one is the machine's read bandwidth. Prefetching helps on cores whose own
// prefetcher stops at 4 KiB pages. The best distance depends on latency × bandwidth.
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
