// Opens the safetensors files of a model's folder. They are those that its index names, or all that mlx-lm would read.
#pragma once

#include "io/safetensors.hpp"

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::io {

/// A function that is called with one sentence, fit to print. The sentence says what was wrong and what was done instead.
using Notify = std::function<void(std::string_view)>;

/// The opened files with their paths and metadata, in the order in which they were read, and the tensors of all of them.
struct ModelFiles {
  std::vector<std::pair<std::filesystem::path, Metadata>> files;
  TensorMap tensors;
};

/// Opens a single file. Throws FileError.
[[nodiscard]] ModelFiles open_model_file(const std::filesystem::path& path);

/// Opens the files of a model's folder.
///
/// If each file that model.safetensors.index.json names holds what the index says, the result has all tensors of these files. The
/// tensors of further files model*.safetensors are added, and `notify` is called for them.
///
/// The index may be missing, or it may not match the folder: it may be left over from another model, or a shard may not have been
/// downloaded. Then the result has every tensor of model*.safetensors, because mlx-lm reads them, and `notify` is called.
/// `notify` is not called for a single model.safetensors without an index.
///
/// Throws FileError if the folder has none of these files. The message says what it holds instead.
[[nodiscard]] ModelFiles open_model_folder(const std::filesystem::path& folder, const Notify& notify);

/// The name of the file that holds each tensor, from the text of a model.safetensors.index.json. Throws FileError unless every
/// file is named by its plain name, which may begin with "./".
[[nodiscard]] std::map<std::string, std::string, std::less<>> parse_weight_map(std::string_view text, std::string_view origin);

}  // namespace gqmm::io
