// A progress bar. It is shown on the standard error stream if that is a terminal.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace gqmm::tools {

/// The text of the bar: "[######      ]  25 %  text". It has at most `columns` characters.
std::string progress_line(double done, std::string_view text, std::size_t columns);

class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// Shows the bar. `done` is the fraction of the work that is done, from 0 to 1.
  void show(double done, std::string_view text);
  void clear();

 private:
  bool terminal_;
  bool shown_ = false;
};

}  // namespace gqmm::tools
