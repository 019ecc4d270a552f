#include "system_calls.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cerrno>
#include <cstdarg>
#include <cstdio>

namespace gqmm::io {

SystemCalls& system_calls() {
  static SystemCalls calls;
  return calls;
}

namespace {

template <class... Arguments>
int call_unless(const std::atomic<int>& error, long number, Arguments... arguments) {
  if (const int value = error; value != 0) {
    errno = value;
    return -1;
  }
  return static_cast<int>(::syscall(number, arguments...));
}

}  // namespace
}  // namespace gqmm::io

using gqmm::io::call_unless;
using gqmm::io::system_calls;

extern "C" {

::mode_t umask(::mode_t mask) noexcept {
  ++system_calls().umask_calls;
  return static_cast<::mode_t>(::syscall(SYS_umask, mask));
}

int open(const char* path, int flags, ...) {
  std::va_list arguments;
  va_start(arguments, flags);
  const ::mode_t mode = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, ::mode_t) : 0;
  va_end(arguments);
  static const std::atomic<int> never = 0;
  const bool without_name = (flags & O_TMPFILE) == O_TMPFILE;
  return call_unless(without_name ? system_calls().open_without_name : never, SYS_openat, AT_FDCWD, path, flags, mode);
}

int fsync(int fd) { return call_unless(system_calls().fsync, SYS_fsync, fd); }

int link(const char* from, const char* to) noexcept {
  return call_unless(system_calls().link, SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) noexcept {
  return call_unless(system_calls().link, SYS_linkat, from_folder, from, to_folder, to, flags);
}

int rename(const char* from, const char* to) noexcept {
  return call_unless(system_calls().rename, SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  static const std::atomic<int> never = 0;
  return call_unless(flags != 0 ? system_calls().rename_with_flags : never, SYS_renameat2, from_folder, from, to_folder, to,
                     flags);
}

}  // extern "C"
