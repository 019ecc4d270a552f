// Writes what a plan of `gqmm quantize` has decided: one safetensors file, or the folder of a model.
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
  QuantizationSettings settings = {};
  bool force = false;
};

/// Each writes everything or nothing, throws FileError, and returns the bytes of all safetensors files. Must run inside
/// run_interruptibly.
std::uint64_t write_file(const QuantizeJob& job, const std::filesystem::path& out);
/// `config` is the text of the model's config.json; files beside the weights are copied from the checkpoint's folder. A shard has
/// at most `shard_bytes` of tensors, unless one layer alone has more.
std::uint64_t write_folder(const QuantizeJob& job, const std::filesystem::path& out, const std::string& config,
                           std::uint64_t shard_bytes);

}  // namespace gqmm::cli
