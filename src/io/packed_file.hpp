// PackedWeights::save and load: a safetensors file (docs/formats.md) whose tensors lie as the kernels read them, so that a loaded
// file is used where it is mapped.
#pragma once

#include "io/safetensors.hpp"

#include <gqmm/packed_weights.hpp>

#include <string_view>

namespace gqmm::io {

/// The packed weights in a file, whose memory they share. Throws FileError, naming `path`, for any other file.
[[nodiscard]] PackedWeights packed_weights_of(const SafetensorsFile& file, std::string_view path);

}  // namespace gqmm::io
