// A program that is spoken to in lines.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace gqmm::bench {

class ChildProcess {
 public:
  /// Throws std::system_error if the program cannot be started.
  explicit ChildProcess(const std::vector<std::string>& arguments);
  /// Closes the program's input, upon which it should end, and waits for it.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// Throw std::runtime_error, naming the program, if it has ended.
  void write_line(std::string_view line) const;
  std::string read_line();

 private:
  [[noreturn]] void fail_ended() const;

  std::string program_;
  int socket_ = -1;
  pid_t pid_ = -1;
  std::string buffered_;
};

}  // namespace gqmm::bench
