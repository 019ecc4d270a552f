#include "cli/interruption.hpp"

#include <array>
#include <csignal>
#include <cstdio>
#include <cstring>

namespace gqmm::cli {
namespace {

struct Interrupted {
  int signal;
};

constexpr std::array signals = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU, SIGALRM, SIGUSR1, SIGUSR2, SIGPIPE, SIGVTALRM};

volatile std::sig_atomic_t arrived = 0;

void note(int signal) { arrived = signal; }

class Handlers {
 public:
  Handlers() {
    struct ::sigaction handler = {};
    handler.sa_handler = note;
    handler.sa_flags = SA_RESTART;
    ::sigemptyset(&handler.sa_mask);
    for (std::size_t i = 0; i < signals.size(); ++i) {
      ::sigaction(signals[i], nullptr, &before_[i]);
      if (before_[i].sa_handler == SIG_DFL) {
        ::sigaction(signals[i], &handler, nullptr);
      }
    }
  }
  Handlers(const Handlers&) = delete;
  Handlers& operator=(const Handlers&) = delete;
  ~Handlers() {
    for (std::size_t i = 0; i < signals.size(); ++i) {
      ::sigaction(signals[i], &before_[i], nullptr);
    }
  }

 private:
  std::array<struct ::sigaction, signals.size()> before_ = {};
};

}  // namespace

void run_interruptibly(const std::function<void()>& action) {
  int signal = 0;
  {
    const Handlers handlers;
    try {
      action();
    } catch (const Interrupted& interrupted) {
      signal = interrupted.signal;
    }
  }
  if (signal != 0) {
    std::fprintf(stderr, "gqmm: %s; nothing was written\n", ::strsignal(signal));
    std::fflush(stderr);
    std::raise(signal);
  }
}

void check_interruption() {
  if (arrived != 0) {
    throw Interrupted{arrived};
  }
}

}  // namespace gqmm::cli
