// A file mapped into memory, read-only.
#pragma once

#include <gqmm/export.hpp>

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

namespace gqmm::io {

/// The whole of a regular file. Pages are read when they are first touched; nothing is copied. (As with every mapping, a file
/// that another process truncates meanwhile raises SIGBUS when its lost part is touched.)
class GQMM_API MappedFile {
 public:
  /// Throws FileError if the file cannot be opened or is not a regular file.
  [[nodiscard]] static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  [[nodiscard]] std::string_view text() const noexcept { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  MappedFile(const std::byte* data, std::size_t size) : data_(data), size_(size) {}

  const std::byte* data_;
  std::size_t size_;
};

}  // namespace gqmm::io
