#include "tools/child_process.hpp"

#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>

extern char** environ;

namespace gqmm::tools {
namespace {

/// A pair of connected sockets. Both ends close on exec, and the program gets its end as standard input and output. Pipes are not
/// used, because a write to a pipe without a reader raises a signal. A write to such a socket returns an error.
struct SocketPair {
  int ends[2] = {-1, -1};
  SocketPair() {
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      throw std::system_error(errno, std::generic_category(), "cannot make a pair of sockets");
    }
  }
};

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& arguments) : program_(arguments.at(0)) {
  const SocketPair pair;
  std::vector<char*> argv;
  for (const std::string& argument : arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pair.ends[1], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, pair.ends[1], STDOUT_FILENO);
  const int error = posix_spawnp(&pid_, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(pair.ends[1]);
  if (error != 0) {
    close(pair.ends[0]);
    throw std::system_error(error, std::generic_category(), "[" + program_ + "] cannot start");
  }
  socket_ = pair.ends[0];
}

ChildProcess::~ChildProcess() {
  close(socket_);
  waitpid(pid_, nullptr, 0);
}

void ChildProcess::fail_ended() const {
  throw std::runtime_error("[" + program_ + "] has ended without an answer; what it printed before says why");
}

void ChildProcess::write_line(std::string_view line) const {
  std::string text(line);
  text += '\n';
  for (std::size_t sent = 0; sent < text.size();) {
    const ssize_t count = send(socket_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno != EINTR) {
      fail_ended();
    }
    sent += count < 0 ? 0 : static_cast<std::size_t>(count);
  }
}

std::string ChildProcess::read_line() {
  for (;;) {
    if (const auto end = buffered_.find('\n'); end != std::string::npos) {
      std::string line = buffered_.substr(0, end);
      buffered_.erase(0, end + 1);
      return line;
    }
    char chunk[4096];
    const ssize_t count = read(socket_, chunk, sizeof chunk);
    if (count == 0 || (count < 0 && errno != EINTR)) {
      fail_ended();
    }
    buffered_.append(chunk, count < 0 ? 0 : static_cast<std::size_t>(count));
  }
}

}  // namespace gqmm::tools
