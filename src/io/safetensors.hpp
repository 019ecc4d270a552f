// Reads files in the safetensors format (https://github.com/huggingface/safetensors):
//
//     bytes 0..7      length n of the header, little-endian
//     bytes 8..8+n    JSON: {"NAME": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, …, "__metadata__": {…}}
//     the rest        the tensors' bytes, row-major, little-endian; offsets count from here
//
// Nothing aligns the data: n may be odd, and then every tensor lies at an odd address.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace gqmm::io {

/// One tensor, as a view of the file's memory.
struct GQMM_API Tensor {
  std::string type;  ///< as the header spells it, e.g. "BF16", "F8_E4M3"
  Shape shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;  ///< keeps the memory alive

  /// nullopt for the types that gqmm::array does not have.
  [[nodiscard]] std::optional<Dtype> dtype() const;
  /// Shares the memory, for as long as the array lives. There must be a dtype.
  [[nodiscard]] array view() const;
};

using TensorMap = std::map<std::string, Tensor, std::less<>>;
using Metadata = std::map<std::string, std::string, std::less<>>;

struct SafetensorsFile {
  TensorMap tensors;
  Metadata metadata;
};

/// Bits of an element of a safetensors type; nullopt for an unknown one.
[[nodiscard]] GQMM_API std::optional<int> bits_of_type(std::string_view type);
/// The safetensors name of a type: "F32" for float32.
[[nodiscard]] std::string_view type_name_of(Dtype dtype);
/// Bytes of a tensor; nullopt for an unknown type, a negative extent, a number of bits that does not fill bytes, and for
/// extents whose product (without zeros) passes 2^63.
[[nodiscard]] GQMM_API std::optional<std::int64_t> byte_count(std::string_view type, const Shape& shape);

/// Views of the tensors in `bytes`, which `owner` keeps alive. Throws FileError, naming `origin`, unless the header is valid and
/// its tensors tile the data: no overlap, no gap, none outside, each as long as its type and shape say. Memory use is bounded by
/// the header's size (see json.hpp), never by what the header claims.
[[nodiscard]] SafetensorsFile parse_safetensors(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                                                std::string_view origin);

/// The same over a file mapped into memory.
[[nodiscard]] GQMM_API SafetensorsFile open_safetensors(const std::filesystem::path& path);

}  // namespace gqmm::io
