#include "progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace gqmm::bench {

ProgressBar::ProgressBar() : terminal_(isatty(STDERR_FILENO) != 0) {}

void ProgressBar::show(double done, std::string_view text) {
  if (!terminal_) {
    return;
  }
  constexpr std::size_t width = 24;
  winsize window = {};
  const std::size_t columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 ? window.ws_col : 80;
  const auto filled = static_cast<std::size_t>(std::clamp(done, 0.0, 1.0) * width);
  std::string line =
      fmt::format("[{}{}] {:3.0f} %  {}", std::string(filled, '#'), std::string(width - filled, ' '), 100 * done, text);
  line.resize(std::min(line.size(), columns - 1));
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
  shown_ = true;
}

void ProgressBar::clear() {
  if (shown_) {
    std::fputs("\r\033[K", stderr);
    std::fflush(stderr);
    shown_ = false;
  }
}

}  // namespace gqmm::bench
