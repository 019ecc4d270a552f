#include "cli/interruption.hpp"

#include <array>
#include <csignal>
#include <cstdio>
#include <cstring>

namespace gqmm::cli {
namespace {

struct SignalArrived {
  int signal;
};

constexpr std::array signals = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU, SIGALRM, SIGUSR1, SIGUSR2, SIGPIPE, SIGVTALRM};

volatile std::sig_atomic_t arrived = 0;

void note(int signal) { arrived = signal; }

class SignalHandlers {
 public:
  SignalHandlers() {
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
  SignalHandlers(const SignalHandlers&) = delete;
  SignalHandlers& operator=(const SignalHandlers&) = delete;
  ~SignalHandlers() {
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
    const SignalHandlers handlers;
    try {
      action();
    } catch (const SignalArrived& exception) {
      signal = exception.signal;
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
    throw SignalArrived{arrived};
  }
}

}  // namespace gqmm::cli
