// The state of an operator's call while it runs: its team of threads, its memory and its list of phases.
//
//     CallContext call(multiply_adds, stream.threads);
//     float* h = call.take<float>(rows, width);
//     call.add_phase(rows, cost, slice_a_row);
//     call.add_phase(items, cost, multiply_an_item);
//     call.run();
#pragma once

#include "cpu/kernels/kernel_table.hpp"
#include "cpu/scratch.hpp"
#include "threads/team.hpp"

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

namespace gqmm::cpu {

/// What a call asks of the team of threads.
struct WantedThreads {
  int threads = 1;             // threads of the call, the caller's included
  bool worth_several = false;  // the work of the call is large enough for several threads, whatever its stream says
};

/// The threads for a call of `multiply_adds` multiply-adds. `wanted` is what the call's stream says; 0 stands for
/// gqmm::get_num_threads(). The result is smaller than that if the work is small, because waking one more thread would cost more
/// than it saves. This function throws std::invalid_argument if GQMM_NUM_THREADS has a wrong value.
WantedThreads wanted_threads(double multiply_adds, int wanted);

/// The memory of one call. It hands out its buffers in a fixed order, so the next call of the same kind finds each of them large
/// enough.
class CallMemory {
 public:
  template <class T>
  T* take(std::int64_t rows, std::int64_t per_row) {
    if (used_ == buffers_.size()) {
      buffers_.emplace_back();
    }
    return buffers_[used_++].take<T>(rows, per_row);
  }
  /// Ends a call. All buffers become free again. A buffer of more than `keep` bytes is returned to the system.
  void end_call(std::size_t keep) {
    for (Scratch& buffer : buffers_) {
      buffer.release(keep);
    }
    used_ = 0;
  }

 private:
  std::vector<Scratch> buffers_;
  std::size_t used_ = 0;
};

class CallContext {
 public:
  /// Leases the team. `multiply_adds` counts the whole call. `wanted` is the number of threads of the call's stream; 0 means as
  /// many as there are.
  CallContext(double multiply_adds, int wanted) : CallContext(wanted_threads(multiply_adds, wanted)) {}
  ~CallContext();
  CallContext(const CallContext&) = delete;
  CallContext& operator=(const CallContext&) = delete;

  [[nodiscard]] const KernelTable& kernels() const noexcept { return kernels_; }
  /// The number of threads that the call is planned for, the caller's included.
  [[nodiscard]] int threads() const { return team_.threads(); }

  /// Returns memory for `rows` times `per_row` elements, which lasts until the call ends. It is aligned to a cache line, and its
  /// contents are undefined. Throws std::bad_alloc.
  template <class T>
  [[nodiscard]] T* take(std::int64_t rows, std::int64_t per_row = 1) {
    return memory_->take<T>(rows, per_row);
  }

  /// Reduces the number of threads to `items` if it is larger. Use it if no phase has more items than that, and before the first
  /// add_phase.
  void use_at_most(std::int64_t items) { team_.use_at_most(items); }

  /// Adds a phase with the items 0 … count − 1. They run in any order and on any thread, after all items of the earlier phases.
  /// cost(item) is relative to other items of the phase. `work(item, next)` runs one item; `next` is the item that this thread
  /// will probably run after it, or WorkShares::none. Throws std::length_error if count is 2^31 or more.
  template <class Cost>
  void add_phase(std::int64_t count, const Cost& cost, std::function<void(std::int64_t item, std::int64_t next)> work) {
    if (phases_used_ == most_phases) {
      throw std::length_error("[gqmm] a call has too many phases");
    }
    phases_[phases_used_++].emplace(count, threads(), cost, std::move(work));
  }

  /// Runs the phases. It throws what threads::TeamCall::run throws.
  void run();

 private:
  static constexpr std::size_t most_phases = 8;

  explicit CallContext(const WantedThreads& wanted);

  const KernelTable& kernels_;
  threads::TeamCall team_;
  ThreadCached<CallMemory> memory_;
  std::array<std::optional<threads::Phase>, most_phases> phases_;
  std::size_t phases_used_ = 0;
};

}  // namespace gqmm::cpu
