// Writes a safetensors file that is either whole or absent.
#pragma once

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

/// All tensors are declared first, then written one at a time in any order, so that memory need hold only one. The bytes go to a
/// temporary file in the same folder, which takes the name `path` in commit() and is removed without it.
class GQMM_API SafetensorsWriter {
 public:
  /// Throws FileError if the file exists and `overwrite` is false, if it cannot be created, for a name that comes twice, and for
  /// a type or shape that the format does not have.
  SafetensorsWriter(std::filesystem::path path, const std::vector<TensorLayout>& tensors, const Metadata& metadata,
                    bool overwrite);
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;
  ~SafetensorsWriter();

  /// Row-major bytes of a declared tensor, all of them. Throws FileError (disk full, …).
  void write(std::string_view name, std::span<const std::byte> bytes);
  /// Puts the file in place once every tensor has been written. Throws FileError; without `overwrite` also if a file of that name
  /// has appeared meanwhile.
  void commit();

 private:
  struct Slot {
    std::uint64_t offset;
    std::uint64_t size;
    bool written = false;
  };
  void write_at(std::uint64_t offset, const void* data, std::size_t size);
  [[noreturn]] void fail(std::string_view problem) const;

  std::filesystem::path path_;
  std::string temporary_;
  bool overwrite_;
  int fd_ = -1;
  std::map<std::string, Slot, std::less<>> slots_;
};

}  // namespace gqmm::io
