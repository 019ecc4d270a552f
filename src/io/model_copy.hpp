// The files of a model beside its weights, which a copy of the model with quantized weights needs too.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::io {

/// The names of the files in a model's folder that a converted model needs too, sorted. They are all files except weights,
/// indices, config.json and hidden files. Of the folders inside, only additional_chat_templates is included. Throws FileError for
/// a link that leads nowhere and for a Git LFS pointer.
[[nodiscard]] std::vector<std::string> files_beside_weights(const std::filesystem::path& folder);

/// The text of a config.json in which "quantization" and "quantization_config" are set to `quantization`, a JSON object. The text
/// of all other members stays as it is, so that no number changes. `text` must be a valid JSON object.
[[nodiscard]] std::string with_quantization(std::string_view text, std::string_view quantization);

}  // namespace gqmm::io
