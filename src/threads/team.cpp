#include "threads/team.hpp"

#include "threads/float_environment.hpp"
#include "threads/interrupt.hpp"
#include "threads/limits.hpp"
#include "threads/node_binding.hpp"
#include "threads/openmp_runtimes.hpp"
#include "threads/spin_policy.hpp"
#include "threads/start_thread.hpp"

#include <pthread.h>

#include <array>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>

namespace gqmm::threads {
namespace {

// A caller that waits for workers considers its InterruptCheck this often. The check itself is asked less often (interrupt.hpp).
constexpr std::chrono::milliseconds interrupt_period{20};
// When the system has refused to start a thread, it is not asked again for this time.
constexpr std::chrono::seconds pause_after_refusal{1};

// The number of forks that led to this process. A call compares it to notice that it now runs in a forked child.
constinit std::atomic<unsigned> forks{0};

/// The state of a call that the team's threads see. It is a single 64-bit word, so that a worker joins exactly the call that it
/// has seen.
struct Gate {
  static constexpr std::uint64_t one_worker = 1;  // bits 0 … 15: the number of workers that have joined and not left
  static constexpr std::uint64_t open = 1ULL << 16;
  static constexpr int size_shift = 17;    // bits 17 … 31: the number of threads that the call is planned for
  static constexpr int number_shift = 32;  // bits 32 … 63: the call's number

  static std::uint64_t of_call(std::uint32_t number, int threads) {
    return std::uint64_t{number} << number_shift | static_cast<std::uint64_t>(threads) << size_shift | open;
  }
  static int workers(std::uint64_t gate) { return static_cast<int>(gate & 0xffff); }
  static bool is_open(std::uint64_t gate) { return (gate & open) != 0; }
  static int size(std::uint64_t gate) { return static_cast<int>(gate >> size_shift & 0x7fff); }
  static std::uint32_t number(std::uint64_t gate) { return static_cast<std::uint32_t>(gate >> number_shift); }
};

/// What the threads of one call share.
struct SharedCall {
  std::span<Phase* const> phases;
  std::atomic<bool> stopped = false;
  std::exception_ptr error = nullptr;  // the thread that sets `stopped` writes it; it is read when all threads have left
  const unsigned forks_before = forks.load(std::memory_order_relaxed);

  void stop_with(std::exception_ptr thrown) {
    if (!stopped.exchange(true)) {
      error = std::move(thrown);
    }
  }
  /// True in a child process that the caller's InterruptCheck forked. The child has none of the workers.
  [[nodiscard]] bool forked() const { return forks.load(std::memory_order_relaxed) != forks_before; }
};

}  // namespace

/// A team of threads: that of a memory node, or that of the process, which is bound to no node. It is never destroyed, because
/// workers may still compute while the process ends.
class Team {
 public:
  /// The team of a node, or of the process. It is made at its first use.
  static Team& of(std::optional<int> node);

  /// Counts a caller whose call is worth several threads. leave() ends this.
  void enter() { callers_.fetch_add(1); }
  void leave();
  /// Leases the team to the calling thread. Returns false if another call has it.
  bool lease() { return !leased_.exchange(true, std::memory_order_acquire); }
  void give_back() { leased_.store(false, std::memory_order_release); }

  /// Enlarges the team to `wanted` threads, the caller included, if the system permits it. Lets the team run on the processors of
  /// the calling thread. Returns the number of threads that the call can have. Only the thread that leased the team calls this
  /// function and run().
  int prepare(int wanted, const Processors& processors);
  void run(SharedCall& call, int threads);

 private:
  struct alignas(64) Worker {
    explicit Worker(int worker_id) : id(worker_id) {}
    const int id;
    pthread_t thread = {};
    std::atomic<Worker*> next{nullptr};
    std::atomic<bool> asleep{false};
    LostTime lost_time;  // only the worker's own thread uses it
    std::mutex mutex;
    std::condition_variable wake;
  };

  explicit Team(std::optional<int> node) : node_(node) {}
  bool create_worker();
  void serve(Worker& worker);
  void wait_for_call(Worker& worker, std::uint32_t last);
  [[nodiscard]] bool may_join(const Worker& worker, std::uint32_t last) const;
  /// Joins the open call. Returns its number, or nothing if there is no call to join. `last` is the number of the last call that
  /// the worker has finished.
  std::optional<std::uint32_t> join(const Worker& worker, std::uint32_t last);
  void leave_call();
  [[nodiscard]] bool crowded() const;
  bool compute(SharedCall& call, Worker* worker);
  void ask_caller(SharedCall& call);
  template <class Done>
  void wait_for_others(SharedCall& call, Worker* worker, Done done);
  void wake_workers();
  void announce_progress(const SharedCall& call);
  void wake_waiting();

  const std::optional<int> node_;
  Team* next_ = nullptr;  // in the list of teams; it is written before the team is in the list

  std::atomic<bool> leased_{false};
  std::atomic<int> callers_{0};
  std::atomic<int> processors_{1};
  SpinPolicy policy_;

  alignas(64) std::atomic<std::uint64_t> gate_{0};
  SharedCall* call_ = nullptr;  // it is written before the gate opens

  // The number of threads of a call that sleep until others make progress, and what wakes them.
  alignas(64) std::atomic<int> waiting_{0};
  std::mutex progress_mutex_;
  std::condition_variable progress_;

  // A list of the workers. The thread that leased the team adds workers, and nobody removes one.
  std::atomic<Worker*> first_{nullptr};
  Worker* last_ = nullptr;
  int workers_ = 0;
  std::uint32_t calls_ = 0;
  ProcessorSet processor_set_;
  Clock::time_point refused_at_ = {};
};

namespace {

// A list of the teams.
constinit std::atomic<Team*> first_team{nullptr};

/// Runs in a child after a fork. The child has none of its parent's workers, so it makes teams of its own. The parent's teams
/// stay in the child's memory and are not used.
void forget_teams() {
  first_team.store(nullptr, std::memory_order_relaxed);
  forks.fetch_add(1, std::memory_order_relaxed);
}

[[maybe_unused]] const int fork_handler = ::pthread_atfork(nullptr, nullptr, &forget_teams);

}  // namespace

Team& Team::of(std::optional<int> node) {
  std::unique_ptr<Team> made;
  Team* first = first_team.load(std::memory_order_acquire);
  while (true) {
    for (Team* team = first; team != nullptr; team = team->next_) {
      if (team->node_ == node) {
        return *team;
      }
    }
    if (made == nullptr) {
      made.reset(new Team(node));
    }
    made->next_ = first;
    if (first_team.compare_exchange_strong(first, made.get(), std::memory_order_acq_rel)) {
      return *made.release();
    }
  }
}

// --- Workers --------------------------------------------------------------------------------------------------------------

int Team::prepare(int wanted, const Processors& processors) {
  processors_.store(processors.count(), std::memory_order_relaxed);
  policy_.set_quota_is_tight(processors.quota && *processors.quota < static_cast<double>(wanted));
  if (processor_set_ != processors.set) {
    processor_set_ = processors.set;
    for (Worker* worker = first_.load(std::memory_order_relaxed); worker != nullptr; worker = worker->next) {
      processor_set_.apply_to(worker->thread);
    }
  }
  while (workers_ + 1 < wanted && create_worker()) {
  }
  return std::min(wanted, workers_ + 1);
}

bool Team::create_worker() {
  if (refused_at_ != Clock::time_point{} && Clock::now() - refused_at_ < pause_after_refusal) {
    return false;
  }
  try {
    auto worker = std::make_unique<Worker>(workers_ + 1);
    std::thread thread = start_thread([this, made = worker.get()] { serve(*made); });
    worker->thread = thread.native_handle();
    thread.detach();
    processor_set_.apply_to(worker->thread);
    std::atomic<Worker*>& end = last_ == nullptr ? first_ : last_->next;
    last_ = worker.release();
    end.store(last_, std::memory_order_release);
    ++workers_;
    return true;
  } catch (const std::exception&) {  // after std::system_error or std::bad_alloc the call runs on the threads that exist
    refused_at_ = Clock::now();
    return false;
  }
}

void Team::serve(Worker& worker) {
#if defined(__linux__)
  std::array<char, 16> name = {};
  if (node_) {
    std::snprintf(name.data(), name.size(), "gqmm-n%d-%d", *node_, worker.id);
  } else {
    std::snprintf(name.data(), name.size(), "gqmm-%d", worker.id);
  }
  pthread_setname_np(pthread_self(), name.data());
#endif
  worker.lost_time.restart();
  std::uint32_t last = 0;
  while (true) {
    wait_for_call(worker, last);
    if (const std::optional<std::uint32_t> number = join(worker, last)) {
      const bool to_the_end = compute(*call_, &worker);
      leave_call();
      last = to_the_end ? *number : last;
    }
  }
}

/// True if this worker may join the open call. The call must be planned for this worker, which must not have finished it already.
/// And there must be a processor for one more thread.
bool Team::may_join(const Worker& worker, std::uint32_t last) const {
  const std::uint64_t gate = gate_.load();
  if (!Gate::is_open(gate) || worker.id >= Gate::size(gate) || Gate::number(gate) == last) {
    return false;
  }
  const int callers = callers_.load();
  return callers <= 1 || callers + Gate::workers(gate) < processors_.load(std::memory_order_relaxed);
}

void Team::wait_for_call(Worker& worker, std::uint32_t last) {
  const auto has_come = [&] { return may_join(worker, last); };
  // Callers that compute alone may need the processor on which this thread would spin.
  const auto is_needed_elsewhere = [&] { return callers_.load() >= processors_.load(std::memory_order_relaxed); };
  const Clock::duration lost = worker.lost_time.take();
  policy_.was_preempted(lost, Clock::now());
  const SpinResult result = spin(policy_.idle_time(Clock::now()), policy_, [&] { return has_come() || is_needed_elsewhere(); });
  if (has_come()) {
    if (result == SpinResult::done) {
      policy_.found_work();
    }
    return;
  }
  std::unique_lock lock(worker.mutex);
  worker.asleep.store(true);
  worker.wake.wait(lock, has_come);
  worker.asleep.store(false);
  worker.lost_time.restart();
}

std::optional<std::uint32_t> Team::join(const Worker& worker, std::uint32_t last) {
  std::uint64_t gate = gate_.load();
  while (Gate::is_open(gate) && worker.id < Gate::size(gate) && Gate::number(gate) != last) {
    if (gate_.compare_exchange_weak(gate, gate + Gate::one_worker)) {
      return Gate::number(gate);
    }
  }
  return std::nullopt;
}

void Team::leave_call() {
  const std::uint64_t before = gate_.fetch_sub(Gate::one_worker);
  if (!Gate::is_open(before) && Gate::workers(before) == 1) {
    wake_waiting();  // the call may have returned already, so its SharedCall must not be used
  }
}

/// True if the threads of the call and the other callers together are more than the processors.
bool Team::crowded() const {
  const int callers = callers_.load(std::memory_order_relaxed);
  return callers > 1 &&
         callers + Gate::workers(gate_.load(std::memory_order_relaxed)) > processors_.load(std::memory_order_relaxed);
}

/// Wakes workers for the open call: as many as it is planned for, but not more than the processors that are left. A caller that
/// leaves later calls this again.
void Team::wake_workers() {
  const std::uint64_t gate = gate_.load();
  if (!Gate::is_open(gate)) {
    return;
  }
  const int callers = callers_.load();
  int room = callers <= 1 ? Gate::size(gate) : processors_.load(std::memory_order_relaxed) - callers - Gate::workers(gate);
  for (Worker* worker = first_.load(std::memory_order_acquire); worker != nullptr && worker->id < Gate::size(gate) && room > 0;
       worker = worker->next) {
    if (worker->asleep.load()) {
      {
        const std::lock_guard lock(worker->mutex);
      }
      worker->wake.notify_one();
      --room;
    }
  }
}

/// Counts a caller less. Its processor becomes free for the call that has the team.
void Team::leave() {
  if (callers_.fetch_sub(1) > 1) {
    wake_workers();
  }
}

// --- A call ---------------------------------------------------------------------------------------------------------------

void Team::run(SharedCall& call, int threads) {
  call_ = &call;
  gate_.store(Gate::of_call(++calls_, threads));
  wake_workers();
  compute(call, nullptr);
  if (Gate::workers(gate_.fetch_and(~Gate::open)) != 0 && !call.forked()) {
    wait_for_others(call, nullptr, [this] { return Gate::workers(gate_.load()) == 0; });
  }
}

/// Computes the part of a worker in a call, or of the caller if `worker` is nullptr. Returns false if a worker left before the
/// end because processors are scarce.
bool Team::compute(SharedCall& call, Worker* worker) {
  const FloatEnvironment environment;
  const int thread = worker == nullptr ? 0 : worker->id;
  bool leaves = false;
  const auto may_go_on = [&] {
    if (worker == nullptr) {
      ask_caller(call);
    } else {
      leaves = crowded();
    }
    return !leaves && !call.stopped.load(std::memory_order_relaxed);
  };
  for (Phase* const phase : call.phases) {
    try {
      if (phase->finish(phase->drain(thread, may_go_on))) {
        announce_progress(call);
      }
    } catch (...) {
      call.stop_with(std::current_exception());
      announce_progress(call);
    }
    if (call.forked()) {  // an item asked the check, and the check forked
      call.stopped = true;
    }
    if (leaves || phase == call.phases.back()) {
      break;
    }
    wait_for_others(call, worker, [&] { return phase->finished() || call.stopped.load(); });
    if (call.stopped.load()) {
      break;
    }
  }
  return !leaves;
}

/// Asks the caller's InterruptCheck, which may stop the call.
void Team::ask_caller(SharedCall& call) {
  try {
    throw_if_interrupted();
  } catch (...) {
    call.stop_with(std::current_exception());
    announce_progress(call);
  }
  if (call.forked()) {
    call.stopped = true;
  }
}

/// Waits until `done()` is true: the thread spins for a while and then sleeps. The caller (`worker` is nullptr) asks its
/// InterruptCheck meanwhile.
template <class Done>
void Team::wait_for_others(SharedCall& call, Worker* worker, Done done) {
  if (spin(policy_.waiting_time(Clock::now()), policy_, done) == SpinResult::done) {
    return;
  }
  waiting_.fetch_add(1);
  std::unique_lock lock(progress_mutex_);
  while (!done()) {
    if (worker != nullptr) {
      progress_.wait(lock);
      worker->lost_time.restart();
      continue;
    }
    progress_.wait_for(lock, interrupt_period);
    lock.unlock();
    ask_caller(call);
    if (call.forked()) {
      return;
    }
    lock.lock();
  }
  waiting_.fetch_sub(1);
}

/// Wakes the threads that wait for progress. A child that was forked within the call wakes nobody, because no thread waits there
/// and mutexes may stay locked for ever.
void Team::announce_progress(const SharedCall& call) {
  if (!call.forked()) {
    wake_waiting();
  }
}

void Team::wake_waiting() {
  if (waiting_.load() != 0) {
    {
      const std::lock_guard lock(progress_mutex_);
    }
    progress_.notify_all();
  }
}

// --- TeamCall -------------------------------------------------------------------------------------------------------------

TeamCall::TeamCall(int wanted, bool worth_several) : forks_(forks.load(std::memory_order_relaxed)) {
  if (!worth_several && wanted <= 1) {
    return;
  }
  const Processors processors = usable_processors();
  const bool may_have_the_team = wanted > 1 && !in_parallel_region();
  Team& team = Team::of(NodeBinding::node());
  team.enter();
  team_ = &team;
  if (may_have_the_team && team.lease()) {
    leads_ = true;
    threads_ = team.prepare(wanted, processors);
  }
}

TeamCall::~TeamCall() {
  if (team_ == nullptr || forks.load(std::memory_order_relaxed) != forks_) {
    return;  // in a child that was forked within the call, the team belongs to the parent
  }
  if (leads_) {
    team_->give_back();
  }
  team_->leave();
}

void TeamCall::run(std::span<Phase* const> phases) {
  if (threads_ == 1) {
    const FloatEnvironment environment;
    for (Phase* const phase : phases) {
      phase->drain(0, [] {
        throw_if_interrupted();
        return true;
      });
    }
    return;
  }
  SharedCall call{.phases = phases};
  team_->run(call, threads_);
  if (call.forked()) {
    throw std::runtime_error(
        "[gqmm] this process was forked within a call, by an InterruptCheck or a signal handler that it ran; only the parent "
        "process has the result");
  }
  if (call.error) {
    std::rethrow_exception(call.error);
  }
}

}  // namespace gqmm::threads
