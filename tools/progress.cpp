#include "tools/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace gqmm::tools {

std::string progress_line(double done, std::string_view text, std::size_t columns) {
  constexpr std::size_t width = 24;
  const double fraction = std::clamp(done, 0.0, 1.0);
  const auto filled = static_cast<std::size_t>(fraction * width);
  std::string line =
      fmt::format("[{}{}] {:3.0f} %  {}", std::string(filled, '#'), std::string(width - filled, ' '), 100 * fraction, text);
  line.resize(std::min(line.size(), columns));
  return line;
}

ProgressBar::ProgressBar() : terminal_(isatty(STDERR_FILENO) != 0) {}

void ProgressBar::show(double done, std::string_view text) {
  if (!terminal_) {
    return;
  }
  winsize window = {};
  const std::size_t columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 ? window.ws_col : 80;
  std::fprintf(stderr, "\r\033[K%s", progress_line(done, text, columns - 1).c_str());
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

}  // namespace gqmm::tools
