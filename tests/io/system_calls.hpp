// System calls that fail on request, and a count of those that the library must not make. system_calls.cpp replaces functions of
// the C library in the whole test program.
#pragma once

#include <atomic>

namespace gqmm::io {

struct SystemCalls {
  std::atomic<int> umask_calls = 0;
  /// The errno with which each of the following calls fails. 0 means that the call is made.
  std::atomic<int> open_without_name = 0;  ///< open with O_TMPFILE, as on file systems that do not have it
  std::atomic<int> fsync = 0;
  std::atomic<int> link = 0;               ///< link and linkat
  std::atomic<int> rename = 0;             ///< rename, but not renameat2
  std::atomic<int> rename_with_flags = 0;  ///< renameat2 that exchanges two names or never replaces one
};

[[nodiscard]] SystemCalls& system_calls();

/// One call fails with `error` during the lifetime of this object.
class Failing {
 public:
  Failing(std::atomic<int>& call, int error) : call_(call) { call_ = error; }
  Failing(const Failing&) = delete;
  Failing& operator=(const Failing&) = delete;
  ~Failing() { call_ = 0; }

 private:
  std::atomic<int>& call_;
};

}  // namespace gqmm::io
