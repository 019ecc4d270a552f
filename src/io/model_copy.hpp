// The parts of a model that lie beside its weights, for a copy of the model with other weights.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::io {

/// The files of a model's folder that a converted model needs too, by name: all but weights, indices, config.json and hidden
/// files; of folders only additional_chat_templates. Throws FileError for a link that leads nowhere.
[[nodiscard]] std::vector<std::string> files_beside_weights(const std::filesystem::path& folder);

/// The text of a config.json with "quantization" and "quantization_config" set to `quantization`, a JSON object. All other text
/// stays as it is, so that no number changes. `text` must be a JSON object (as parse_json has found).
[[nodiscard]] std::string with_quantization(std::string_view text, std::string_view quantization);

}  // namespace gqmm::io
