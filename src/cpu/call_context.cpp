#include "cpu/call_context.hpp"

#include "cpu/dispatch.hpp"
#include "threads/limits.hpp"

#include <gqmm/system.hpp>

#include <algorithm>
#include <cmath>
#include <span>

namespace gqmm::cpu {
namespace {

// The number of multiply-adds below which a second thread costs more than it saves. Starting a thread that spins takes
// microseconds. A Zen 4 core does this much work in 13 µs in decode from DRAM (39 G/s, one row of bfloat16) and in 5 µs in
// prefill (100 G/s).
constexpr std::int64_t work_worth_a_thread = std::int64_t{1} << 19;
// A thread keeps buffers of up to this many bytes between calls.
constexpr std::size_t kept_bytes = std::size_t{64} << 20;

}  // namespace

WantedThreads wanted_threads(double multiply_adds, int wanted) {
  threads::check_environment();
  constexpr double most = 1e6;
  const double worth = std::min(std::floor(multiply_adds / static_cast<double>(work_worth_a_thread)) + 1, most);
  if (worth == 1) {
    return {};  // a tiny call does not ask the system for the number of processors
  }
  return {.threads = std::min(wanted > 0 ? wanted : get_num_threads(), static_cast<int>(worth)), .worth_several = true};
}

CallContext::CallContext(const WantedThreads& wanted) : kernels_(active_kernels()), team_(wanted.threads, wanted.worth_several) {}

CallContext::~CallContext() { memory_->end_call(kept_bytes); }

void CallContext::run() {
  std::array<threads::Phase*, most_phases> phases = {};
  for (std::size_t i = 0; i < phases_used_; ++i) {
    phases[i] = &*phases_[i];
  }
  team_.run(std::span(phases).first(phases_used_));
}

}  // namespace gqmm::cpu
