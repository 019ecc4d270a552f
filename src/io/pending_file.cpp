#include "io/pending_file.hpp"

#include "io/error.hpp"

#include "threads/interrupt.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <random>
#include <system_error>
#include <utility>

namespace gqmm::io {
namespace {

constexpr ::mode_t permission_bits = 0777;
constexpr ::mode_t new_file_mode = 0666;  // open() removes the bits of the process's umask
// Files are written in pieces of this many bytes. Before each piece the caller may stop the work (InterruptCheck). A busy
// disk takes less than a tenth of a second for a piece. Pieces of 8 MiB took a quarter of a second at 30 MB/s.
constexpr std::uint64_t piece_bytes = std::uint64_t{2} << 20;
constexpr std::string_view exists_already = "exists already; remove it or choose another name";

const char* kind_of(::mode_t mode) {
  switch (mode & static_cast<::mode_t>(S_IFMT)) {
    case S_IFDIR: return "a folder";
    case S_IFCHR:
    case S_IFBLK: return "a device";
    case S_IFIFO: return "a named pipe";
    case S_IFSOCK: return "a socket";
    default: return "a special file";
  }
}

/// Blocks the signal SIGXFSZ for the calling thread. A write beyond the process's limit for file sizes then fails with EFBIG and
/// does not end the process. The kernel sends the signal to the thread that writes, so no handler is needed. The destructor
/// removes a signal that arrived meanwhile.
class FileSizeSignalBlocked {
 public:
  FileSizeSignalBlocked() {
    ::sigemptyset(&signal_);
    ::sigaddset(&signal_, SIGXFSZ);
    ::sigset_t pending;
    ::sigpending(&pending);
    was_pending_ = ::sigismember(&pending, SIGXFSZ) == 1;
    ::pthread_sigmask(SIG_BLOCK, &signal_, &before_);
  }
  FileSizeSignalBlocked(const FileSizeSignalBlocked&) = delete;
  FileSizeSignalBlocked& operator=(const FileSizeSignalBlocked&) = delete;
  ~FileSizeSignalBlocked() {
    const int error = errno;
    const ::timespec at_once = {};
    if (!was_pending_) {
      while (::sigtimedwait(&signal_, nullptr, &at_once) < 0 && errno == EINTR) {
      }
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    errno = error;
  }

 private:
  ::sigset_t signal_ = {};
  ::sigset_t before_ = {};
  bool was_pending_ = false;
};

std::string descriptor_path(int fd) { return fmt::format("/proc/self/fd/{}", fd); }

/// Opens a file that has no name. Returns −1 if there is no /proc, because publish needs /proc to give the file a name.
int open_without_name(const std::filesystem::path& folder) {
  const int fd = ::open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, new_file_mode);
  if (fd >= 0 && ::access(descriptor_path(fd).c_str(), F_OK) != 0) {
    ::close(fd);
    return -1;
  }
  return fd;
}

}  // namespace

OutputPath inspect_output(const std::filesystem::path& path) {
  const std::string& origin = path.native();
  if (!path.has_filename() || path.filename() == "." || path.filename() == "..") {
    throw FileError(origin, "does not name a file");
  }
  struct stat status = {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) {
      return {path, std::nullopt};
    }
    throw FileError(origin, system_error_text("cannot be written", errno));
  }
  OutputPath result = {path, std::nullopt};
  if (S_ISLNK(status.st_mode)) {
    std::error_code error;
    result.path = std::filesystem::canonical(path, error);
    if (error || ::stat(path.c_str(), &status) != 0) {
      throw FileError(origin, "is a symbolic link that leads to no file; remove the link or name another file");
    }
  }
  if (!S_ISREG(status.st_mode)) {
    throw FileError(origin,
                    fmt::format("is {}, which is never replaced; name a regular file or a new one", kind_of(status.st_mode)));
  }
  if (::faccessat(AT_FDCWD, result.path.c_str(), W_OK, AT_EACCESS) != 0) {
    throw FileError(origin, system_error_text("cannot be replaced", errno));
  }
  result.mode = status.st_mode & permission_bits;
  result.owner = status.st_uid;
  result.group = status.st_gid;
  return result;
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

void flush_folder(const std::filesystem::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    static_cast<void>(::fsync(fd));
    ::close(fd);
  }
}

std::string random_name(std::string_view prefix) {
  constexpr std::string_view letters = "abcdefghijklmnopqrstuvwxyz0123456789";
  std::random_device random;
  std::uniform_int_distribution<std::size_t> letter(0, letters.size() - 1);
  std::string name(prefix);
  for (int i = 0; i < 10; ++i) {
    name += letters[letter(random)];
  }
  return name;
}

SignalsHeldBack::SignalsHeldBack() {
  // The signals of faults are not held back, because they would end the process all the same.
  ::sigset_t held;
  ::sigfillset(&held);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) {
    ::sigdelset(&held, fault);
  }
  ::pthread_sigmask(SIG_BLOCK, &held, &before_);
}

SignalsHeldBack::~SignalsHeldBack() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

PendingFile::PendingFile(const std::filesystem::path& folder, std::string origin)
    : origin_(std::move(origin)), folder_(folder), fd_(open_without_name(folder)) {
  constexpr int max_attempts = 100;
  for (int i = 0; fd_ < 0 && i < max_attempts; ++i) {
    std::filesystem::path name = folder_ / random_name(".gqmm-");
    const SignalsHeldBack held;
    fd_ = ::open(name.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, new_file_mode);
    if (fd_ >= 0) {
      temporary_ = std::move(name);
    } else if (errno != EEXIST) {
      break;
    }
  }
  if (fd_ < 0) {
    fail("cannot create a file in its folder", errno);
  }
}

PendingFile::PendingFile(PendingFile&& other) noexcept
    : origin_(std::move(other.origin_)),
      folder_(std::move(other.folder_)),
      temporary_(std::exchange(other.temporary_, {})),
      sent_(other.sent_),
      fd_(std::exchange(other.fd_, -1)) {}

PendingFile::~PendingFile() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
  if (!temporary_.empty()) {
    ::unlink(temporary_.c_str());
  }
}

void PendingFile::fail(std::string_view action, int error_number) const {
  throw FileError(origin_, system_error_text(action, error_number));
}

void PendingFile::reserve(std::uint64_t size) {
  const FileSizeSignalBlocked no_signal;
  for (std::uint64_t first = 0; first < size; first += piece_bytes) {
    threads::throw_if_interrupted();
    int error = 0;
    do {
      const bool done =
          ::fallocate(fd_, 0, static_cast<::off_t>(first), static_cast<::off_t>(std::min(piece_bytes, size - first))) == 0;
      error = done ? 0 : errno;
    } while (error == EINTR);
    if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
      fail(fmt::format("cannot reserve {} bytes", size), error);
    }
    if (error != 0) {
      return;  // the file system cannot reserve space, so a full disk is found by a write
    }
  }
}

void PendingFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  const FileSizeSignalBlocked no_signal;
  while (!bytes.empty()) {
    threads::throw_if_interrupted();
    const ::ssize_t written = ::pwrite(fd_, bytes.data(), std::min(bytes.size(), piece_bytes), static_cast<::off_t>(offset));
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written <= 0) {
      fail("cannot write", written < 0 ? errno : EIO);
    }
    send_to_disk(offset, static_cast<std::uint64_t>(written));
    offset += static_cast<std::uint64_t>(written);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

/// Starts the transfer of a piece to the disk, and waits for the piece before it. So little is left for flush(),
/// which cannot be interrupted.
void PendingFile::send_to_disk(std::uint64_t offset, std::uint64_t size) {
  const auto sync = [this](std::uint64_t first, std::uint64_t length, unsigned flags) {
    if (length != 0 && ::sync_file_range(fd_, static_cast<::off_t>(first), static_cast<::off_t>(length), flags) != 0 &&
        (errno == EIO || errno == ENOSPC || errno == EDQUOT)) {
      fail("cannot write", errno);  // all other errors mean that the file system does not offer this call
    }
  };
  sync(offset, size, SYNC_FILE_RANGE_WRITE);
  sync(sent_.first, sent_.size, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
  sent_ = {offset, size};
}

void PendingFile::flush() {
  if (::fsync(fd_) != 0) {
    fail("cannot write", errno);
  }
}

void PendingFile::publish(const OutputPath& target, bool replace) {
  if (replace && target.mode && (target.owner != ::geteuid() || target.group != ::getegid())) {
    static_cast<void>(::fchown(fd_, target.owner, target.group) == 0);  // only root may do this, so a failure is ignored
  }
  if (replace && target.mode && ::fchmod(fd_, *target.mode) != 0) {
    fail("cannot set the permissions of the file that it replaces", errno);
  }
  flush();
  // A file that has no name yet must stay open until it has one.
  if (!temporary_.empty() && ::close(std::exchange(fd_, -1)) != 0) {
    fail("cannot write", errno);
  }
  if (replace) {
    publish_over(target.path);
  } else {
    publish_new(target.path);
  }
  if (fd_ >= 0) {
    ::close(std::exchange(fd_, -1));
  }
  flush_folder(folder_of(target.path));
}

int PendingFile::link_to(const std::filesystem::path& name) const {
  const int done = temporary_.empty()
                       ? ::linkat(AT_FDCWD, descriptor_path(fd_).c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW)
                       : ::link(temporary_.c_str(), name.c_str());
  return done == 0 ? 0 : errno;
}

void PendingFile::publish_new(const std::filesystem::path& target) {
  const SignalsHeldBack held;
  // link() gives the file its name and never replaces another file.
  int error = link_to(target);
  if (error == 0) {
    if (!temporary_.empty()) {
      ::unlink(std::exchange(temporary_, {}).c_str());
    }
    return;
  }
  if (error != EEXIST && !temporary_.empty()) {  // the file system has no hard links
    error = ::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target.c_str(), RENAME_NOREPLACE) == 0 ? 0 : errno;
    if (error == EINVAL || error == ENOSYS) {  // it has no rename that never replaces either
      std::error_code ignored;
      const bool is_there = std::filesystem::exists(std::filesystem::symlink_status(target, ignored));
      error = is_there ? EEXIST : std::rename(temporary_.c_str(), target.c_str()) == 0 ? 0 : errno;
    }
    if (error == 0) {
      temporary_.clear();
      return;
    }
  }
  if (error == EEXIST) {
    throw FileError(origin_, exists_already);
  }
  fail("cannot put the finished file in its place", error);
}

void PendingFile::publish_over(const std::filesystem::path& target) {
  if (!inspect_output(target).mode && temporary_.empty()) {
    if (const int error = link_to(target); error == 0) {
      return;
    } else if (error != EEXIST) {
      fail("cannot put the finished file in its place", error);
    }
  }
  // A file without a name cannot replace another file. So it gets a temporary name first, and is then renamed.
  const SignalsHeldBack held;
  constexpr int max_attempts = 100;
  for (int i = 0; temporary_.empty(); ++i) {
    std::filesystem::path name = folder_ / random_name(".gqmm-");
    const int error = link_to(name);
    if (error == 0) {
      temporary_ = std::move(name);
    } else if (error != EEXIST || i == max_attempts) {
      fail("cannot put the finished file in its place", error);
    }
  }
  if (std::rename(temporary_.c_str(), target.c_str()) != 0) {
    fail("cannot put the finished file in its place", errno);
  }
  temporary_.clear();
}

}  // namespace gqmm::io
