// What the fuzzers do with one input; the unit tests do the same with every file of the committed corpus.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace gqmm::io {

/// Opens the bytes as a safetensors file, reads every byte of every tensor and looks for quantized tensors among them. Returns a
/// sum of what it read, so that nothing is optimised away. FileError is an answer; any other exception is a bug.
std::uint64_t read_as_safetensors(std::span<const std::byte> bytes);

/// Reads the bytes as config.json, as a bare "quantization" object and as model.safetensors.index.json.
std::uint64_t read_as_config(std::span<const std::byte> bytes);

}  // namespace gqmm::io
