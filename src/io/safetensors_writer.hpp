// Writes a safetensors file that is either complete or absent.
#pragma once

#include "internal_api.hpp"
#include "io/pending_file.hpp"
#include "io/safetensors.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::io {

/// The entry of a tensor in the header.
struct TensorLayout {
  std::string name;
  std::string type;  ///< as safetensors spells it
  Shape shape;
};

/// Writes a file. All tensors are declared first. Then they are written one at a time in any order, so that memory has to hold
/// only one. The file has no name before commit (io/pending_file.hpp), and is deleted if commit is not called.
class GQMM_INTERNAL_API SafetensorsWriter {
 public:
  /// Creates the file. Throws FileError if the file exists and `overwrite` is false, or if the file cannot be created. The path
  /// must not name anything else than a regular file. Also throws FileError if two tensors have the same name, and for a type or
  /// shape that the format does not have.
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<TensorLayout>& tensors, const Metadata& metadata,
                    bool overwrite);
  /// Writes to a file whose name is not known yet. commit_as gives it the name.
  SafetensorsWriter(PendingFile file, const std::vector<TensorLayout>& tensors, const Metadata& metadata);

  /// Writes all bytes of a declared tensor, in row-major order. Throws FileError, for example if the disk is full.
  void write(std::string_view name, std::span<const std::byte> bytes) { write_part(name, 0, bytes); }
  /// Writes some bytes of a declared tensor, from its byte `first` on.
  void write_part(std::string_view name, std::uint64_t first, std::span<const std::byte> bytes);
  /// Writes everything to the disk, so that commit is quick.
  void flush() { file_.flush(); }
  /// Puts the file in place. Every tensor must have been written. Throws FileError. If `overwrite` is false, this includes the
  /// case that a file of that name has appeared meanwhile.
  void commit();
  /// Puts the file in place under the name `path`. Throws FileError if `path` exists.
  void commit_as(const std::filesystem::path& path);

  [[nodiscard]] std::uint64_t file_size() const noexcept { return file_size_; }

 private:
  struct Slot {
    std::uint64_t offset;
    std::uint64_t size;
    std::uint64_t missing;  // the number of bytes that have not been written
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
