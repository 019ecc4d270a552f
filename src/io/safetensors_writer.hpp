// Writes a safetensors file that is either whole or absent.
#pragma once

#include "io/pending_file.hpp"
#include "io/safetensors.hpp"

#include <gqmm/export.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::io {

struct TensorLayout {
  std::string name;
  std::string type;  ///< as safetensors spells it
  Shape shape;
};

/// All tensors are declared first, then written one at a time in any order, so that memory need hold only one. The file has no
/// name before commit (io/pending_file.hpp), and is gone without it.
class GQMM_API SafetensorsWriter {
 public:
  /// Throws FileError if the file exists and `overwrite` is false, if the path names anything but a regular file, if the file
  /// cannot be created, for a name that comes twice, and for a type or shape that the format does not have.
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<TensorLayout>& tensors, const Metadata& metadata,
                    bool overwrite);
  /// For a file whose place is not there yet: commit_as names it.
  SafetensorsWriter(PendingFile file, const std::vector<TensorLayout>& tensors, const Metadata& metadata);

  /// Row-major bytes of a declared tensor, all of them. Throws FileError (disk full, …).
  void write(std::string_view name, std::span<const std::byte> bytes) { write_part(name, 0, bytes); }
  /// Some of them, from byte `first` of the tensor on.
  void write_part(std::string_view name, std::uint64_t first, std::span<const std::byte> bytes);
  /// Writes what there is to the disk, so that commit takes no time.
  void flush() { file_.flush(); }
  /// Puts the file in place once every tensor has been written. Throws FileError; without `overwrite` also if a file of that name
  /// has appeared meanwhile.
  void commit();
  /// The same under a name that nothing may have.
  void commit_as(const std::filesystem::path& path);

  [[nodiscard]] std::uint64_t file_size() const noexcept { return file_size_; }

 private:
  struct Slot {
    std::uint64_t offset;
    std::uint64_t size;
    std::uint64_t missing;  // bytes that have not been written
  };
  SafetensorsWriter(const std::filesystem::path& path, OutputPath target, const std::vector<TensorLayout>& tensors,
                    const Metadata& metadata);
  [[nodiscard]] std::string lay_out(const std::vector<TensorLayout>& tensors, const Metadata& metadata);
  void publish(const OutputPath& target, bool replace);
  [[noreturn]] void fail(std::string_view problem) const;

  PendingFile file_;
  OutputPath target_;
  bool overwrite_ = false;
  std::uint64_t file_size_ = 0;
  std::map<std::string, Slot, std::less<>> slots_;
};

}  // namespace gqmm::io
