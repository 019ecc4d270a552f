// Reads files in the safetensors format (https://github.com/huggingface/safetensors):
//
//     bytes 0..7      the length n of the header, little-endian
//     bytes 8..8+n    JSON: {"NAME": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, …, "__metadata__": {…}}
//     the rest        the tensors' bytes, row-major, little-endian; offsets count from here
//
// The format does not align the data. n may be odd, and then every tensor may be at an odd address.
#pragma once

#include "internal_api.hpp"

#include <gqmm/array.hpp>

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace gqmm::io {

/// One tensor of a file. It is a view of the file's memory.
struct GQMM_INTERNAL_API Tensor {
  std::string type;  ///< as the header spells it, e.g. "BF16", "F8_E4M3"
  Shape shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;  ///< keeps the memory alive

  /// The type as gqmm has it, or nullopt for a type that gqmm::array does not have.
  [[nodiscard]] std::optional<Dtype> dtype() const;
  /// An array that shares the memory and keeps it alive. The tensor must have a dtype.
  [[nodiscard]] array view() const;
};

using TensorMap = std::map<std::string, Tensor, std::less<>>;
using Metadata = std::map<std::string, std::string, std::less<>>;

struct SafetensorsFile {
  TensorMap tensors;
  Metadata metadata;
};

/// The bits of an element of a safetensors type, or nullopt for an unknown type.
[[nodiscard]] GQMM_INTERNAL_API std::optional<int> bits_of_type(std::string_view type);
/// The safetensors name of a type: "F32" for float32.
[[nodiscard]] std::string_view type_name_of(Dtype dtype);
/// The bytes of a tensor. nullopt for an unknown type, a negative extent, and a number of bits that is not a multiple of 8. Also
/// nullopt if the product of the extents, without zeros, does not fit into 63 bits.
[[nodiscard]] GQMM_INTERNAL_API std::optional<std::int64_t> byte_count(std::string_view type, const Shape& shape);

/// Parses a file whose content is `bytes`, which `owner` keeps alive. The tensors are views of `bytes`. Throws FileError, which
/// names `origin`, unless the header is valid and the tensors tile the data: they do not overlap, leave no gap, lie inside the
/// data, and have the length that their types and shapes give. The memory that this needs is bounded by the size of the header
/// (json.hpp), whatever the header claims.
[[nodiscard]] SafetensorsFile parse_safetensors(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                                                std::string_view origin);

/// Maps a file into memory and parses it.
[[nodiscard]] GQMM_INTERNAL_API SafetensorsFile open_safetensors(const std::filesystem::path& path);

}  // namespace gqmm::io
