// Writes the output of `gqmm quantize` according to its plan. The output is one safetensors file or the folder of a model.
#pragma once

#include "io/checkpoint.hpp"
#include "io/quantization_plan.hpp"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace gqmm::cli {

struct QuantizeJob {
  const io::Checkpoint* checkpoint = nullptr;
  std::vector<io::PlannedTensor> plan;
  detail::QuantizationSettings settings = {};
  bool force = false;
};

/// Writes one file. Both functions write everything or nothing, throw FileError, and return the bytes of all safetensors files.
/// They must be called inside run_interruptibly.
std::uint64_t write_file(const QuantizeJob& job, const std::filesystem::path& out);
/// Writes the folder of a model. `config` is the text of the model's config.json. The files beside the weights are copied from
/// the checkpoint's folder. A shard has at most `shard_bytes` of tensors, unless a single layer has more.
std::uint64_t write_folder(const QuantizeJob& job, const std::filesystem::path& out, const std::string& config,
                           std::uint64_t shard_bytes);

}  // namespace gqmm::cli
