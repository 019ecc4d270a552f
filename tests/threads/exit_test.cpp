// Tests of processes that end while their threads compute.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <string>

namespace gqmm::threads {
namespace {

/// The exit status of a shell command, or −1 if a signal or a time limit ended it.
int status_of(const std::string& command) {
  const int status = std::system(("timeout 60 " + command).c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Exit, IsPossibleWhileThreadsCompute) {
  for (const char* how : {"return", "exit", "quick_exit"}) {
    for (int turn = 0; turn < 5; ++turn) {
      ASSERT_EQ(status_of(std::string(GQMM_EXIT_PROBE) + " " + how), 7) << how;
    }
  }
}

}  // namespace
}  // namespace gqmm::threads
