// A file that is mapped into memory for reading.
#pragma once

#include "internal_api.hpp"

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

namespace gqmm::io {

/// The mapping of a whole regular file. Nothing is copied, and a page is read when it is first touched. If another process
/// truncates the file meanwhile, a touch of the lost part raises SIGBUS, as with every mapping.
class GQMM_INTERNAL_API MappedFile {
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
