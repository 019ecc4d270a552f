// Runs a part of a test in a forked process.
#pragma once

#include <execinfo.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <functional>

namespace gqmm::threads {

constexpr int hung = 97;
constexpr int has_thrown = 98;

/// Ends a child whose time is up, and prints where it was. It handles SIGALRM.
inline void end_hung_child(int signal) {
  std::signal(signal, SIG_DFL);
  alarm(5);  // the child ends also if a lock that the stack's addresses need stays locked
  std::array<void*, 64> frames = {};
  backtrace_symbols_fd(frames.data(), backtrace(frames.data(), static_cast<int>(frames.size())), STDERR_FILENO);
  _exit(hung);
}

/// Runs `child` in a forked process. Returns what `child` returned, 98 if it threw, or 97 if it had not returned after 60
/// seconds. If a signal ended the process, returns minus its number.
inline int status_of_child(const std::function<int()>& child) {
  const pid_t pid = fork();
  if (pid == 0) {
    std::signal(SIGALRM, &end_hung_child);
    alarm(60);
    int status = has_thrown;
    try {
      status = child();
    } catch (...) {
      status = has_thrown;
    }
    _exit(status);
  }
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace gqmm::threads
