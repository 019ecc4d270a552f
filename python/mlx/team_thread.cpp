#include "team_thread.hpp"

#include "cpu/backend.hpp"

#include <gqmm/system.hpp>

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

namespace gqmm::mlx {
namespace {

class TeamThread {
 public:
  TeamThread() : thread_([this] { serve(); }) {}
  TeamThread(const TeamThread&) = delete;
  TeamThread& operator=(const TeamThread&) = delete;

  void run(const std::function<void()>& task) {
    const std::lock_guard one_caller(callers_);
    std::unique_lock lock(mutex_);
    error_ = nullptr;
    task_ = &task;
    changed_.notify_all();
    changed_.wait(lock, [this] { return task_ == nullptr; });
    if (error_) {
      std::rethrow_exception(error_);
    }
  }

 private:
  [[noreturn]] void serve() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return task_ != nullptr; });
      lock.unlock();
      try {
        (*task_)();
      } catch (...) {
        error_ = std::current_exception();
      }
      lock.lock();
      task_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex callers_;
  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* task_ = nullptr;
  std::exception_ptr error_;
  std::thread thread_;
};

std::atomic<TeamThread*> team = nullptr;

/// Never destroyed: streams may still evaluate while the process exits. A child that is forked makes its own.
TeamThread& team_thread() {
  static std::mutex creation;
  static const int registered = ::pthread_atfork([] { creation.lock(); }, [] { creation.unlock(); },
                                                 [] {
                                                   team = nullptr;
                                                   creation.unlock();
                                                 });
  static_cast<void>(registered);
  const std::lock_guard lock(creation);
  if (team == nullptr) {
    team = new TeamThread;
  }
  return *team;
}

}  // namespace

void run_product(double multiply_adds, const std::function<void(int threads)>& product) {
  if (cpu::threads_worth(multiply_adds) == 1 || available_threads() == 1) {
    product(1);
  } else {
    team_thread().run([&] { product(0); });
  }
}

}  // namespace gqmm::mlx
