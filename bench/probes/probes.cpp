#include "probes/probes.hpp"

#include "cpu/cpuid.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <stdexcept>

namespace gqmm::bench {
namespace {

ProbeSet find_set(std::string_view name) {
  std::string names;
  for (const ProbeSet& set : probe_sets()) {
    if (set.supported && (name.empty() || name == set.name)) {
      return set;
    }
    if (set.supported) {
      names += fmt::format("{}{}", names.empty() ? "" : ", ", set.name);
    }
  }
  throw std::invalid_argument(
      fmt::format("[bench] probe set '{}' is unknown or not supported by this machine; use one of {}", name, names));
}

}  // namespace

std::vector<ProbeSet> probe_sets() {
  std::vector<ProbeSet> sets;
#if defined(GQMM_BENCH_X86)
  const cpu::X86Features& has = cpu::x86_features();
  const bool avx2 = has.avx2 && has.fma;
  const bool avx512bw = avx2 && has.avx512f && has.avx512bw;
  sets.push_back({"avx512vnni", avx512bw && has.avx512vnni, &avx512vnni_loops});
  sets.push_back({"avx512bw", avx512bw, &avx512bw_loops});
  sets.push_back({"avxvnni", avx2 && has.avxvnni, &avxvnni_loops});
  sets.push_back({"avx2", avx2, &avx2_loops});
#endif
  sets.push_back({"portable", true, &portable_loops});
  return sets;
}

std::string_view name_of(Limit limit) {
  switch (limit) {
    case Limit::int8_dot: return "int8 dot";
    case Limit::float32_fma: return "float32 fma";
    case Limit::dram_read: break;
  }
  return "DRAM read";
}

std::string_view unit_of(Limit limit) {
  switch (limit) {
    case Limit::int8_dot: return "GOP/s";
    case Limit::float32_fma: return "GFLOP/s";
    case Limit::dram_read: break;
  }
  return "GB/s";
}

Probes::Probes(int threads, std::string_view set, std::size_t buffer_bytes, Pages pages)
    : threads_(threads), set_(find_set(set)), buffer_(buffer_bytes, pages), team_(std::make_unique<ProbeThreads>(threads)) {
  // Each thread writes the memory that it will read, so that the memory is near its core on machines with several NUMA nodes.
  team_->seconds_of([&](int thread) {
    const std::size_t share = buffer_.size() / static_cast<std::size_t>(threads_);
    std::memset(buffer_.data() + static_cast<std::size_t>(thread) * share, 1, share);
  });
  dot_rounds_ = calibrated_rounds(Limit::int8_dot);
  fma_rounds_ = calibrated_rounds(Limit::float32_fma);
  reader_ = fastest_reader();
}

/// Chooses the variant with the best median of a few passes. The variants take turns, so that changes of the machine's speed
/// affect all of them.
ReadVariant Probes::fastest_reader() const {
  constexpr std::size_t passes = 5;
  const std::span variants(set_.loops->read_variants, read_variant_count);
  std::vector<std::vector<double>> rates(variants.size());
  for (std::size_t pass = 0; pass < passes; ++pass) {
    for (std::size_t i = 0; i < variants.size(); ++i) {
      rates[i].push_back(read_rate(variants[i]));
    }
  }
  std::size_t best = 0;
  double best_rate = 0;
  for (std::size_t i = 0; i < variants.size(); ++i) {
    std::nth_element(rates[i].begin(), rates[i].begin() + passes / 2, rates[i].end());
    if (rates[i][passes / 2] > best_rate) {
      best_rate = rates[i][passes / 2];
      best = i;
    }
  }
  return variants[best];
}

double Probes::read_rate(const ReadVariant& variant) const {
  const std::size_t share = buffer_.size() / static_cast<std::size_t>(threads_) & ~std::size_t{63};
  std::size_t bytes = 0;
  const double seconds = team_->seconds_of([&](int thread) {
    const std::size_t read = variant.run(buffer_.data() + static_cast<std::size_t>(thread) * share, share);
    if (thread == 0) {
      bytes = read;
    }
  });
  return static_cast<double>(bytes) * threads_ / seconds;
}

double Probes::arithmetic_rate(Limit limit, std::int64_t rounds) const {
  const bool dot = limit == Limit::int8_dot;
  const auto run = dot ? set_.loops->int8_dot : set_.loops->float32_fma;
  const double operations = dot ? set_.loops->int8_dot_operations : set_.loops->float32_fma_operations;
  const double seconds = team_->seconds_of([&](int) { run(rounds); });
  return operations * static_cast<double>(rounds) * threads_ / seconds;
}

std::int64_t Probes::calibrated_rounds(Limit limit) const {
  constexpr double target_seconds = 2e-3;
  const double operations = limit == Limit::int8_dot ? set_.loops->int8_dot_operations : set_.loops->float32_fma_operations;
  // The warm-up is a few times as long as the measurement, because the clock changes when wide vectors are first used.
  std::int64_t rounds = 10000;
  for (int step = 0; step < 8; ++step) {
    const double rate = arithmetic_rate(limit, rounds) / threads_;
    rounds = std::max<std::int64_t>(1000, static_cast<std::int64_t>(target_seconds * rate / operations));
  }
  return rounds;
}

double Probes::measure(Limit limit) {
  if (limit == Limit::dram_read) {
    return read_rate(reader_);
  }
  return arithmetic_rate(limit, limit == Limit::int8_dot ? dot_rounds_ : fma_rounds_);
}

std::string Probes::description(Limit limit) const {
  switch (limit) {
    case Limit::int8_dot: return set_.loops->int8_dot_instruction;
    case Limit::float32_fma: return set_.loops->float32_fma_instruction;
    case Limit::dram_read: break;
  }
  const std::string streams = fmt::format("{} stream{}", reader_.streams, reader_.streams == 1 ? "" : "s");
  return reader_.prefetch_bytes == 0 ? streams + ", no prefetch"
                                     : fmt::format("{}, prefetch {} bytes ahead", streams, reader_.prefetch_bytes);
}

}  // namespace gqmm::bench
