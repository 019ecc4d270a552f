#include "threads/start_thread.hpp"

#include "threads/fork.hpp"

#include <pthread.h>

#include <csignal>
#include <mutex>
#include <utility>

namespace gqmm::threads {
namespace {

// Locked while a thread is created. Without it, a child that is forked meanwhile would find locks of the C library locked for
// ever.
constinit ForkSafeMutex creation;
const ForkSafeMutex::Registration creation_registration(creation);

/// Blocks the signals that are sent to the process. A thread that is created meanwhile inherits this, and never runs a signal
/// handler of the process. The signals of faults and of the profiler's timer are not blocked.
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

}  // namespace

std::thread start_thread(std::function<void()> body) {
  const std::lock_guard lock(creation);
  const BlockedSignals blocked;
  return std::thread(std::move(body));
}

}  // namespace gqmm::threads
