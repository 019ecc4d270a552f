// A program in a child process. The two sides exchange lines of text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace gqmm::tools {

class ChildProcess {
 public:
  /// Starts the program arguments[0]. Throws std::system_error if it cannot be started.
  explicit ChildProcess(const std::vector<std::string>& arguments);
  /// Closes the program's input and waits for its end. The program should end when its input does.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// Both functions throw std::runtime_error, which names the program, if it has ended.
  void write_line(std::string_view line) const;
  std::string read_line();

 private:
  [[noreturn]] void fail_ended() const;

  std::string program_;
  int socket_ = -1;
  pid_t pid_ = -1;
  std::string buffered_;
};

}  // namespace gqmm::tools
