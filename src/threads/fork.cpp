#include "threads/fork.hpp"

#include <pthread.h>

namespace gqmm::threads {
namespace {

constinit ForkSafeMutex* first = nullptr;

}  // namespace

ForkSafeMutex::Registration::Registration(ForkSafeMutex& mutex) noexcept {
  // The list grows only while the library is loaded, on one thread.
  if (first == nullptr) {
    ::pthread_atfork(&lock_all, &unlock_all, &unlock_all);
  }
  mutex.next_ = first;
  first = &mutex;
}

void ForkSafeMutex::lock_all() {
  for (ForkSafeMutex* mutex = first; mutex != nullptr; mutex = mutex->next_) {
    mutex->lock();
  }
}

void ForkSafeMutex::unlock_all() {
  for (ForkSafeMutex* mutex = first; mutex != nullptr; mutex = mutex->next_) {
    mutex->unlock();
  }
}

}  // namespace gqmm::threads
