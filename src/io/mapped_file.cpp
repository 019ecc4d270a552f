#include "io/mapped_file.hpp"

#include "io/error.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <system_error>

namespace gqmm::io {

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  // Without O_NONBLOCK, opening a named pipe would wait for a writer before its type can be seen.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const int error = errno;
    std::error_code ignored;
    if (const auto target = std::filesystem::read_symlink(path, ignored); error == ENOENT && !target.empty()) {
      throw FileError(path.native(),
                      fmt::format("is a link to {}, which is not there; download the file again", in_quotes(target.native())));
    }
    throw FileError(path.native(), system_error_text("cannot open", error));
  }
  struct stat status = {};
  void* data = nullptr;
  int error = 0;
  if (::fstat(fd, &status) != 0) {
    error = errno;
  } else if (S_ISREG(status.st_mode) && status.st_size > 0) {
    data = ::mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
    error = data == MAP_FAILED ? errno : 0;
  }
  ::close(fd);  // the mapping stays
  if (error != 0) {
    throw FileError(path.native(), system_error_text("cannot map into memory", error));
  }
  if (!S_ISREG(status.st_mode)) {
    throw FileError(path.native(), S_ISDIR(status.st_mode) ? "is a folder, not a file" : "is not a regular file");
  }
  return std::shared_ptr<const MappedFile>(
      new MappedFile(static_cast<const std::byte*>(data), static_cast<std::size_t>(status.st_size)));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    ::munmap(const_cast<std::byte*>(data_), size_);
  }
}

}  // namespace gqmm::io
