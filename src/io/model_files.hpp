// The safetensors files of a model's folder: those that its index names, or all that mlx-lm would read.
#pragma once

#include "io/safetensors.hpp"

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::io {

/// Told one sentence, fit to print, about what was not as it should be and what was done instead.
using Notify = std::function<void(std::string_view)>;

/// Opened files with their paths, in the order in which they were read.
struct ModelFiles {
  std::vector<std::pair<std::filesystem::path, Metadata>> files;
  TensorMap tensors;
};

/// The file alone. Throws FileError.
[[nodiscard]] ModelFiles open_model_file(const std::filesystem::path& path);

/// Every tensor of the files that model.safetensors.index.json names, if each holds what the index says. Without an index, or if
/// it does not match the folder (left over from another model, a shard that was not downloaded), every tensor of
/// model*.safetensors, as mlx-lm reads them, and `notify` is told; model.safetensors alone without an index is nothing to tell.
/// Throws FileError, which says what the folder holds instead, if it has none of these.
[[nodiscard]] ModelFiles open_model_folder(const std::filesystem::path& folder, const Notify& notify);

/// The file of each tensor, from the text of a model.safetensors.index.json. Throws FileError unless every file is named as a
/// plain name in the same folder ("./" before it is left out).
[[nodiscard]] std::map<std::string, std::string, std::less<>> parse_weight_map(std::string_view text, std::string_view origin);

}  // namespace gqmm::io
