#include "fuzz/targets.hpp"

#include "io/checkpoint.hpp"
#include "io/error.hpp"
#include "io/foreign_scheme.hpp"
#include "io/packed_file.hpp"
#include "io/quantization_config.hpp"
#include "io/safetensors.hpp"

#include <functional>
#include <string_view>
#include <utility>

namespace gqmm::io {
namespace {

/// The result of `read`, or 0 for a file that it refuses.
std::uint64_t value_or_refusal(const std::function<std::uint64_t()>& read) {
  try {
    return read();
  } catch (const FileError&) {
    return 0;
  }
}

}  // namespace

std::uint64_t read_as_safetensors(std::span<const std::byte> bytes) {
  return value_or_refusal([bytes] {
    SafetensorsFile file = parse_safetensors(bytes, nullptr, "input");
    std::uint64_t sum = 0;
    for (const auto& [name, tensor] : file.tensors) {
      for (const std::byte byte : tensor.bytes) {
        sum += static_cast<std::uint64_t>(byte);
      }
    }
    sum += value_or_refusal([&file] { return packed_weights_of(file, "input").nbytes(); });
    Checkpoint checkpoint;
    checkpoint.tensors = std::move(file.tensors);
    sum += find_foreign_scheme(nullptr, checkpoint.tensors) ? 1 : 0;
    if (const auto settings = file.metadata.find("quantization"); settings != file.metadata.end()) {
      const FoundQuantization found = find_quantization_in_metadata(settings->second, "input");
      checkpoint.quantization = found.config;
      checkpoint.foreign_settings = found.foreign;
    }
    for (const QuantizedTensor& tensor : quantized_tensors(checkpoint, {}, [](std::string_view) {})) {
      sum += static_cast<std::uint64_t>(tensor.experts + tensor.N + tensor.K + tensor.nbytes());
    }
    return sum;
  });
}

std::uint64_t read_as_config(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto read_model_config = [text] {
    const nlohmann::json config = parse_model_config(text, "input");
    return (find_quantization(config, "input").config ? 1U : 0U) + (find_foreign_scheme(&config, {}) ? 1U : 0U);
  };
  const auto read_layer_of_config = [text] {
    const auto found = find_quantization(parse_model_config(text, "input"), "input");
    return found.config ? found.config->settings_under_other_prefixes("language_model.lm_head").size() +
                              (found.config->settings_of("lm_head") ? 1U : 0U)
                        : 0U;
  };
  return value_or_refusal(read_model_config) + value_or_refusal(read_layer_of_config) +
         value_or_refusal([text] { return find_quantization_in_metadata(text, "input").config ? 1 : 0; }) +
         value_or_refusal([text] { return parse_quantization(text, "input").settings_of("lm_head") ? 1 : 0; }) +
         value_or_refusal([text] { return parse_weight_map(text, "input").size(); });
}

}  // namespace gqmm::io
