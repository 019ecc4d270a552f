// Runs a part of a test in a forked process.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace gqmm::threads {

/// Runs `child` in a forked process, which is ended after 60 seconds. Returns what `child` returned, or 98 if it threw. Returns
/// −1 if a signal ended the process.
inline int status_of_child(const std::function<int()>& child) {
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(60);
    int status = 98;
    try {
      status = child();
    } catch (...) {
      status = 98;
    }
    _exit(status);
  }
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace gqmm::threads
