// The limits of this machine, measured now, by the threads that run the product.
#pragma once

#include "memory.hpp"
#include "probes/loops.hpp"
#include "probes/probe_threads.hpp"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::bench {

/// A set of probe loops, from the most to the least capable.
struct ProbeSet {
  std::string_view name;  // "avx512-vnni", "avx512", "avx-vnni", "avx2", "portable"
  bool supported;         // by this machine
  const ProbeLoops* loops;
};

std::vector<ProbeSet> probe_sets();

enum class Limit { int8_dot, float32_fma, dram_read };

std::string_view name_of(Limit limit);
/// Of a rate at that limit.
std::string_view unit_of(Limit limit);

/// A multiply-add counts as two operations: the int8-dot peak is 128 × the rate of `vpdpbusd zmm`. A product of 2·rows·N·K
/// operations that runs at it would have every dot-product instruction do useful work once.
class Probes {
 public:
  /// `set`: a name of probe_sets(), or empty for the most capable that is supported. Chooses, for this number of threads, the
  /// best way of reading `buffer_bytes` of memory. Throws std::invalid_argument for an unknown or unsupported set.
  Probes(int threads, std::string_view set, std::size_t buffer_bytes, Pages pages);

  /// The rate in operations or bytes per second, measured over about two milliseconds (dram_read: one pass over the buffer).
  double measure(Limit limit);

  [[nodiscard]] int threads() const { return threads_; }
  [[nodiscard]] std::string_view set() const { return set_.name; }
  /// How the limit is measured: "vpdpbusd zmm", "4 streams, prefetch 2048 bytes ahead".
  [[nodiscard]] std::string description(Limit limit) const;

 private:
  [[nodiscard]] double read_rate(const ReadVariant& variant) const;
  [[nodiscard]] ReadVariant fastest_reader() const;
  [[nodiscard]] std::int64_t calibrated_rounds(Limit limit) const;
  [[nodiscard]] double arithmetic_rate(Limit limit, std::int64_t rounds) const;

  int threads_;
  ProbeSet set_;
  PageMemory buffer_;
  std::unique_ptr<ProbeThreads> team_;
  std::int64_t dot_rounds_ = 0;
  std::int64_t fma_rounds_ = 0;
  ReadVariant reader_ = {};
};

}  // namespace gqmm::bench
