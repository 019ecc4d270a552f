#include "fuzz/targets.hpp"

#include "io/checkpoint.hpp"
#include "io/error.hpp"
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
    if (const auto settings = file.metadata.find("quantization"); settings != file.metadata.end()) {
      checkpoint.quantization = parse_quantization(settings->second, "input");
    }
    for (const QuantizedTensor& tensor : quantized_tensors(checkpoint)) {
      sum += static_cast<std::uint64_t>(tensor.experts + tensor.N + tensor.K + tensor.nbytes());
    }
    return sum;
  });
}

std::uint64_t read_as_config(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return value_or_refusal([text] { return parse_model_config(text, "input") ? 1 : 0; }) +
         value_or_refusal([text] { return parse_quantization(text, "input").settings_of("lm_head") ? 1 : 0; }) +
         value_or_refusal([text] { return parse_weight_map(text, "input").size(); });
}

}  // namespace gqmm::io
