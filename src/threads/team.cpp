#include "threads/team.hpp"

#include "cpu/float_environment.hpp"
#include "threads/fork.hpp"
#include "threads/interrupt.hpp"
#include "threads/limits.hpp"
#include "threads/openmp_runtimes.hpp"
#include "threads/spin_policy.hpp"

#include <pthread.h>

#include <array>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <exception>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>

namespace gqmm::threads {
namespace {

// How often a caller that waits looks at its InterruptCheck, which then asks at its own pace.
constexpr std::chrono::milliseconds interrupt_period{20};
// The system may refuse to start a thread. It is not asked again for a while.
constexpr std::chrono::seconds pause_after_refusal{1};

// Held while a thread is created: the C library's own locks for that are not free in a child that is forked meanwhile.
constinit ForkSafeMutex creation;
const ForkSafeMutex::Registration creation_registration(creation);

// Counts the forks that led to this process, so that a call sees that it goes on in a child.
constinit std::atomic<unsigned> forks{0};

/// What the team's threads see of a call, in one word, so that a worker joins just the call that it saw.
struct Gate {
  static constexpr std::uint64_t one_worker = 1;  // bits 0 … 15: workers that have joined and not left
  static constexpr std::uint64_t open = 1ULL << 16;
  static constexpr int size_shift = 17;    // bits 17 … 31: threads that the call is planned for
  static constexpr int number_shift = 32;  // bits 32 … 63: the call's number

  static std::uint64_t of_call(std::uint32_t number, int threads) {
    return std::uint64_t{number} << number_shift | static_cast<std::uint64_t>(threads) << size_shift | open;
  }
  static int workers(std::uint64_t gate) { return static_cast<int>(gate & 0xffff); }
  static bool is_open(std::uint64_t gate) { return (gate & open) != 0; }
  static int size(std::uint64_t gate) { return static_cast<int>(gate >> size_shift & 0x7fff); }
  static std::uint32_t number(std::uint64_t gate) { return static_cast<std::uint32_t>(gate >> number_shift); }
};

/// Blocks signals that are for the process, so that the threads created meanwhile never run its handlers. Faults and the
/// profiler's timer stay.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int allowed : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF}) {
      sigdelset(&blocked, allowed);
    }
    pthread_sigmask(SIG_SETMASK, &blocked, &saved_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &saved_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t saved_;
};

/// What the threads of one call share.
struct SharedCall {
  std::span<Step* const> steps;
  std::atomic<bool> stopped = false;
  std::exception_ptr error = nullptr;  // written by the thread that sets `stopped`, read when all have left
  const unsigned forks_before = forks.load(std::memory_order_relaxed);

  void stop_with(std::exception_ptr thrown) {
    if (!stopped.exchange(true)) {
      error = std::move(thrown);
    }
  }
  /// True in a child process that was forked by the caller's InterruptCheck. It has none of the workers.
  [[nodiscard]] bool forked() const { return forks.load(std::memory_order_relaxed) != forks_before; }
};

}  // namespace

/// Never destroyed: workers may still compute while the process ends.
class Team {
 public:
  static Team& instance();

  /// Counts a caller whose call is worth several threads.
  void enter() { callers_.fetch_add(1); }
  void leave();
  /// False if another call has the team.
  bool take() { return !taken_.exchange(true, std::memory_order_acquire); }
  void give_back() { taken_.store(false, std::memory_order_release); }

  /// Makes the team as large as `wanted` threads if the system permits, and lets it run on the processors of the calling thread.
  /// Returns its size, the caller included. Only whoever took the team calls this, and run().
  int prepare(int wanted, const Processors& processors);
  void run(SharedCall& call, int threads);

 private:
  struct alignas(64) Worker {
    explicit Worker(int worker_id) : id(worker_id) {}
    const int id;
    pthread_t thread = {};
    std::atomic<Worker*> next{nullptr};
    std::atomic<bool> asleep{false};
    LostTime lost_time;  // of the worker's own thread
    std::mutex mutex;
    std::condition_variable wake;
  };

  bool create_worker();
  void serve(Worker& worker);
  void wait_for_call(Worker& worker, std::uint32_t last);
  [[nodiscard]] bool may_join(const Worker& worker, std::uint32_t last) const;
  /// The number of the call that the worker has joined, or nothing.
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

  std::atomic<bool> taken_{false};
  std::atomic<int> callers_{0};
  std::atomic<int> processors_{1};
  SpinPolicy policy_;

  alignas(64) std::atomic<std::uint64_t> gate_{0};
  SharedCall* call_ = nullptr;  // written before the gate opens

  // Threads of a call that wait for each other.
  alignas(64) std::atomic<int> waiting_{0};
  std::mutex progress_mutex_;
  std::condition_variable progress_;

  // Workers are only ever added, by whoever took the team.
  std::atomic<Worker*> first_{nullptr};
  Worker* last_ = nullptr;
  int workers_ = 0;
  std::uint32_t calls_ = 0;
  ProcessorSet set_;
  Clock::time_point refused_ = {};
};

namespace {

constinit std::atomic<Team*> the_team{nullptr};

/// A child has none of its parent's workers. It makes a team of its own; the parent's stays in its memory, unused.
void forget_team() {
  the_team.store(nullptr, std::memory_order_relaxed);
  forks.fetch_add(1, std::memory_order_relaxed);
}

[[maybe_unused]] const int fork_handler = ::pthread_atfork(nullptr, nullptr, &forget_team);

}  // namespace

Team& Team::instance() {
  Team* team = the_team.load(std::memory_order_acquire);
  if (team == nullptr) {
    Team* const made = new Team;
    if (the_team.compare_exchange_strong(team, made, std::memory_order_acq_rel)) {
      return *made;
    }
    delete made;
  }
  return *team;
}

// --- Workers --------------------------------------------------------------------------------------------------------------

int Team::prepare(int wanted, const Processors& processors) {
  processors_.store(processors.count(), std::memory_order_relaxed);
  policy_.set_quota_is_tight(processors.quota && *processors.quota < static_cast<double>(wanted));
  if (set_ != processors.set) {
    set_ = processors.set;
    for (Worker* worker = first_.load(std::memory_order_relaxed); worker != nullptr; worker = worker->next) {
      set_.apply_to(worker->thread);
    }
  }
  while (workers_ + 1 < wanted && create_worker()) {
  }
  return std::min(wanted, workers_ + 1);
}

bool Team::create_worker() {
  if (refused_ != Clock::time_point{} && Clock::now() - refused_ < pause_after_refusal) {
    return false;
  }
  try {
    auto worker = std::make_unique<Worker>(workers_ + 1);
    {
      const std::lock_guard lock(creation);
      const BlockedSignals blocked;
      std::thread thread([this, made = worker.get()] { serve(*made); });
      worker->thread = thread.native_handle();
      thread.detach();
    }
    set_.apply_to(worker->thread);
    std::atomic<Worker*>& end = last_ == nullptr ? first_ : last_->next;
    last_ = worker.release();
    end.store(last_, std::memory_order_release);
    ++workers_;
    return true;
  } catch (const std::exception&) {  // std::system_error or std::bad_alloc: the call runs on the threads that exist
    refused_ = Clock::now();
    return false;
  }
}

void Team::serve(Worker& worker) {
#if defined(__linux__)
  std::array<char, 16> name = {};
  std::snprintf(name.data(), name.size(), "gqmm-%d", worker.id);
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

/// Is there a call that this worker is planned for, has not been through, and a processor for one thread more?
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
  const Spun spun = spin(policy_.idle_time(Clock::now()), policy_, [&] { return has_come() || is_needed_elsewhere(); });
  if (has_come()) {
    if (spun == Spun::done) {
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
    wake_waiting();  // the call may be gone already
  }
}

/// Are the threads of the call and the other callers more than there are processors?
bool Team::crowded() const {
  const int callers = callers_.load(std::memory_order_relaxed);
  return callers > 1 &&
         callers + Gate::workers(gate_.load(std::memory_order_relaxed)) > processors_.load(std::memory_order_relaxed);
}

/// Wakes as many workers as the open call is planned for and processors are left for. Whoever leaves later looks again.
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

/// A caller that ends leaves a processor to the call that has the team.
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

/// The part of a worker in a call, or of the caller (nullptr). False: a worker left before the end because processors are scarce.
bool Team::compute(SharedCall& call, Worker* worker) {
  const cpu::FloatEnvironment environment;
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
  for (Step* const step : call.steps) {
    try {
      if (step->finish(step->drain(thread, may_go_on))) {
        announce_progress(call);
      }
    } catch (...) {
      call.stop_with(std::current_exception());
      announce_progress(call);
    }
    if (leaves || step == call.steps.back()) {
      break;
    }
    wait_for_others(call, worker, [&] { return step->finished() || call.stopped.load(); });
    if (call.stopped.load()) {
      break;
    }
  }
  return !leaves;
}

/// Lets the caller's InterruptCheck stop the call.
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

/// Spins for a while, then sleeps, until `done()`. The caller goes on asking its InterruptCheck.
template <class Done>
void Team::wait_for_others(SharedCall& call, Worker* worker, Done done) {
  if (spin(policy_.waiting_time(Clock::now()), policy_, done) == Spun::done) {
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

/// In a child that was forked within the call nobody waits, and locks may be taken for ever.
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
  Team& team = Team::instance();
  team.enter();
  team_ = &team;
  if (may_have_the_team && team.take()) {
    leads_ = true;
    threads_ = team.prepare(wanted, processors);
  }
}

TeamCall::~TeamCall() {
  if (team_ == nullptr || forks.load(std::memory_order_relaxed) != forks_) {
    return;  // in a child that was forked within the call, the team is the parent's
  }
  if (leads_) {
    team_->give_back();
  }
  team_->leave();
}

void TeamCall::run(std::span<Step* const> steps) {
  if (threads_ == 1) {
    const cpu::FloatEnvironment environment;
    for (Step* const step : steps) {
      step->drain(0, [] {
        throw_if_interrupted();
        return true;
      });
    }
    return;
  }
  SharedCall call{.steps = steps};
  team_->run(call, threads_);
  if (call.forked()) {
    throw std::runtime_error(
        "[gqmm] this process was forked by a check whether the call should stop, a signal handler perhaps; the result is in the "
        "parent process alone");
  }
  if (call.error) {
    std::rethrow_exception(call.error);
  }
}

}  // namespace gqmm::threads
