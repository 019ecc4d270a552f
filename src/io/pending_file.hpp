// A file that is being written and has no name yet, and the paths under which it may be published.
#pragma once

#include "internal_api.hpp"

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace gqmm::io {

/// The place of an output file.
struct OutputPath {
  std::filesystem::path path;    ///< the given path, after symbolic links have been followed
  std::optional<::mode_t> mode;  ///< the permissions of the regular file that is there; nullopt if there is none
  ::uid_t owner = 0;             ///< the owner of that file
  ::gid_t group = 0;             ///< its group
};

/// Checks a path before anything is written. Throws FileError unless the path names a regular file or does not exist. A device, a
/// named pipe, a socket, a folder, a link that leads nowhere and a write-protected file are never replaced.
[[nodiscard]] GQMM_INTERNAL_API OutputPath inspect_output(const std::filesystem::path& path);

/// The folder of a path. It is "." for a plain name.
[[nodiscard]] GQMM_INTERNAL_API std::filesystem::path folder_of(const std::filesystem::path& path);

/// Writes the entries of a folder to the disk, so that a rename in it survives a power failure. Errors are ignored, because some
/// file systems cannot do this.
GQMM_INTERNAL_API void flush_folder(const std::filesystem::path& folder);

/// `prefix` followed by random letters and digits.
[[nodiscard]] GQMM_INTERNAL_API std::string random_name(std::string_view prefix);

/// Blocks the signals that would end the process, for the calling thread. It is used while a temporary name exists that must not
/// stay. A signal that another thread receives still ends the process, because a library may not install handlers.
class GQMM_INTERNAL_API SignalsHeldBack {
 public:
  SignalsHeldBack();
  SignalsHeldBack(const SignalsHeldBack&) = delete;
  SignalsHeldBack& operator=(const SignalsHeldBack&) = delete;
  ~SignalsHeldBack();

 private:
  ::sigset_t before_ = {};
};

/// A file that is being written. It has no name if the file system permits that (O_TMPFILE). Then nothing is left even if the
/// process is killed. Otherwise it has a temporary name, which the destructor removes. Its permissions are those of any new file.
class GQMM_INTERNAL_API PendingFile {
 public:
  /// Creates the file in `folder`. `origin` is the name of the file in messages. The constructor and all other functions throw
  /// FileError. reserve and write_at also throw Interrupted if this thread's InterruptCheck asked to stop.
  PendingFile(const std::filesystem::path& folder, std::string origin);
  PendingFile(PendingFile&& other) noexcept;
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  PendingFile& operator=(PendingFile&&) = delete;
  ~PendingFile();

  [[nodiscard]] const std::string& origin() const noexcept { return origin_; }

  /// Reserves `size` bytes in the file system, so that a full disk is found before the work begins.
  void reserve(std::uint64_t size);
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);

  /// Writes everything to the disk. publish does the same, but is quick if this was done before.
  void flush();
  /// Flushes the file and gives it its name, which must be in the same file system. If `replace` is true, an existing regular
  /// file is replaced in one step. The new file then has its permissions, and its owner if the process may set it. Nothing else
  /// is ever replaced.
  void publish(const OutputPath& target, bool replace);

 private:
  [[noreturn]] void fail(std::string_view action, int error_number) const;
  void send_to_disk(std::uint64_t offset, std::uint64_t size);
  [[nodiscard]] int link_to(const std::filesystem::path& name) const;
  void publish_new(const std::filesystem::path& target);
  void publish_over(const std::filesystem::path& target);

  std::string origin_;
  std::filesystem::path folder_;
  std::filesystem::path temporary_;  // empty if the file has no name
  struct ByteRange {
    std::uint64_t first = 0;
    std::uint64_t size = 0;
  };
  ByteRange sent_;  // the piece whose transfer to the disk was started last
  int fd_ = -1;
};

}  // namespace gqmm::io
