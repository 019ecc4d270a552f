// Measures the limits of this machine at this moment, with as many threads as the product has.
#pragma once

#include "measure/memory.hpp"
#include "probes/loops.hpp"
#include "probes/probe_threads.hpp"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::bench {

/// A set of probe loops. Lists of sets go from the most to the least capable.
struct ProbeSet {
  std::string_view name;  // the name of an instruction set ("avx512vnni", "avx512bw", "avxvnni", "avx2"), or "portable"
  bool supported;         // whether this machine supports it
  const ProbeLoops* loops;
};

std::vector<ProbeSet> probe_sets();

enum class Limit { int8_dot, float32_fma, dram_read };

std::string_view name_of(Limit limit);
/// Returns the unit of a rate at that limit.
std::string_view unit_of(Limit limit);

/// Probes of the three limits. A multiply-add counts as two operations, so the int8-dot peak is 128 × the rate of `vpdpbusd zmm`.
/// A product has 2·rows·N·K operations. It would reach the peak if it needed each dot-product instruction once.
class Probes {
 public:
  /// Chooses the best way of reading `buffer_bytes` of memory with this number of threads. `set` is a name of probe_sets(), or
  /// empty for the most capable supported set. Throws std::invalid_argument for an unknown or unsupported set.
  Probes(int threads, std::string_view set, std::size_t buffer_bytes, Pages pages);

  /// Measures the rate in operations or bytes per second, for about two milliseconds. dram_read takes one pass over the buffer.
  double measure(Limit limit);

  [[nodiscard]] int threads() const { return threads_; }
  [[nodiscard]] std::string_view set() const { return set_.name; }
  /// Says how the limit is measured: "vpdpbusd zmm", "4 streams, prefetch 2048 bytes ahead".
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
