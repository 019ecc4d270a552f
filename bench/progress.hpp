// A bar on the terminal, while the standard error output is one.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace gqmm::bench {

/// "[######      ]  25 %  text", no longer than `columns`.
std::string progress_line(double done, std::string_view text, std::size_t columns);

class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// `done` from 0 to 1.
  void show(double done, std::string_view text);
  void clear();

 private:
  bool terminal_;
  bool shown_ = false;
};

}  // namespace gqmm::bench
