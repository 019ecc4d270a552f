// PackedWeights::save and PackedWeights::load. The file is a safetensors file (docs/reference/formats.md) whose tensors are in
// the order in which the kernels read them. So a loaded file is used where it is mapped, without a copy.
#pragma once

#include "io/safetensors.hpp"

#include <gqmm/packed_weights.hpp>

#include <string_view>

namespace gqmm::io {

/// The packed weights in a file. They share the memory of the file. Throws FileError, which names `path`, if the file holds
/// something else.
[[nodiscard]] PackedWeights packed_weights_of(const SafetensorsFile& file, std::string_view path);

}  // namespace gqmm::io
