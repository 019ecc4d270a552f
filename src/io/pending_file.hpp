// A file that is being written and has no name yet, and the paths that such a file may take.
#pragma once

#include <gqmm/export.hpp>

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace gqmm::io {

/// Where an output goes.
struct OutputPath {
  std::filesystem::path path;    ///< what the given path leads to: a symbolic link has been followed
  std::optional<::mode_t> mode;  ///< permissions of the regular file that is there; nullopt if there is none
  ::uid_t owner = 0;             ///< of that file
  ::gid_t group = 0;
};

/// Looks at a path before anything is written. Throws FileError unless it names a regular file or nothing yet: a device, a named
/// pipe, a socket, a folder, a link that leads nowhere and a write-protected file are never replaced.
[[nodiscard]] GQMM_API OutputPath inspect_output(const std::filesystem::path& path);

/// The folder of a path, "." for a plain name.
[[nodiscard]] GQMM_API std::filesystem::path folder_of(const std::filesystem::path& path);

/// Writes a folder's entries to the disk, so that a rename in it survives a power failure. Errors are ignored, because some file
/// systems cannot do this.
GQMM_API void flush_folder(const std::filesystem::path& folder);

/// "prefix" and random letters.
[[nodiscard]] GQMM_API std::string random_name(std::string_view prefix);

/// Holds back the signals that would end the process, for the calling thread, while a name exists that must not stay. A library
/// may not install handlers, so a signal that another thread takes still ends the process.
class GQMM_API SignalsHeldBack {
 public:
  SignalsHeldBack();
  SignalsHeldBack(const SignalsHeldBack&) = delete;
  SignalsHeldBack& operator=(const SignalsHeldBack&) = delete;
  ~SignalsHeldBack();

 private:
  ::sigset_t before_ = {};
};

/// The file has no name where the file system can do that (O_TMPFILE), so that nothing is left even if the process is killed.
/// Elsewhere it has a temporary one, which the destructor removes. Its permissions are those of any new file.
class GQMM_API PendingFile {
 public:
  /// Creates the file in `folder`. `origin` is the name for messages. Throws FileError, as do all methods.
  PendingFile(const std::filesystem::path& folder, std::string origin);
  PendingFile(PendingFile&& other) noexcept;
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  PendingFile& operator=(PendingFile&&) = delete;
  ~PendingFile();

  [[nodiscard]] const std::string& origin() const noexcept { return origin_; }

  /// Asks the file system for `size` bytes, so that a full disk is found before the work.
  void reserve(std::uint64_t size);
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);

  /// Writes everything to the disk. publish does so too; a file that was flushed before is published at once.
  void flush();
  /// Flushes the file and gives it its name, in the same file system. An existing regular file is replaced in
  /// one step if `replace` is true, and its permissions are kept, its owner too where the process may do that; nothing else is
  /// ever replaced.
  void publish(const OutputPath& target, bool replace);

 private:
  [[noreturn]] void fail(std::string_view action, int error_number) const;
  [[nodiscard]] int link_to(const std::filesystem::path& name) const;
  void publish_new(const std::filesystem::path& target);
  void publish_over(const std::filesystem::path& target);

  std::string origin_;
  std::filesystem::path folder_;
  std::filesystem::path temporary_;  // empty: the file has no name
  int fd_ = -1;
};

}  // namespace gqmm::io
