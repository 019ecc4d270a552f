// Models for the tests of `gqmm quantize`.
#pragma once

#include "cli_test_support.hpp"

#include <map>

namespace gqmm::cli {

/// A float32 tensor for write_model. Its values differ, and are finite in every type.
struct FloatTensor {
  std::string name;
  Shape shape;
  std::string type = "F32";
};

class QuantizeCli : public Cli {
 protected:
  /// A safetensors file of the given tensors.
  void write_tensors(const std::string& name, const std::vector<FloatTensor>& tensors, const io::Metadata& metadata = {}) const {
    std::vector<io::TensorLayout> layouts;
    for (const FloatTensor& tensor : tensors) {
      layouts.push_back({tensor.name, tensor.type, tensor.shape});
    }
    io::SafetensorsWriter writer(folder_.path() / name, layouts, metadata, true);
    for (const FloatTensor& tensor : tensors) {
      const auto bytes = static_cast<std::size_t>(*io::byte_count(tensor.type, tensor.shape));
      std::vector<float> values(bytes / 4 + 1);
      for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = std::sin(static_cast<float>(i));
      }
      writer.write(tensor.name, std::as_bytes(std::span(values)).first(bytes));
    }
    writer.commit();
  }

  /// A folder with a model in MLX's names.
  void write_float_model(const std::string& name,
                         const std::string& config = R"({"model_type": "qwen3_moe", "tie_word_embeddings": true})",
                         const std::vector<FloatTensor>& tensors = model_tensors()) const {
    std::filesystem::create_directory(folder_.path() / name);
    write_tensors(name + "/model.safetensors", tensors, {{"format", "mlx"}});
    folder_.write(name + "/config.json", config);
    folder_.write(name + "/tokenizer.json", "{}");
  }

  static std::vector<FloatTensor> model_tensors() {
    return {{"model.embed_tokens.weight", {32, 64}},
            {"model.layers.0.input_layernorm.weight", {64}},
            {"model.layers.0.mlp.gate.weight", {4, 64}},
            {"model.layers.0.mlp.switch_mlp.up_proj.weight", {4, 16, 64}},
            {"model.layers.0.self_attn.q_proj.weight", {64, 64}},
            {"lm_head.weight", {32, 64}}};
  }

  /// "to" of every tensor that a dry run prints.
  [[nodiscard]] std::map<std::string, std::string> plan_of(const std::string& arguments) const {
    std::map<std::string, std::string> plan;
    const json found = run_json("quantize --dry-run " + arguments);
    for (const json& tensor : found["tensors"]) {
      plan[tensor["name"]] = tensor["to"];
    }
    return plan;
  }

  [[nodiscard]] std::string text_of(const std::string& name) const {
    return std::string(io::MappedFile::open(folder_.path() / name)->text());
  }

  /// The names in the folder, including hidden ones, but without the output files of the last run.
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_.path())) {
      names.push_back(entry.path().lexically_relative(folder_.path()));
    }
    std::erase_if(names, [](const std::string& name) { return name == "stdout" || name == "stderr"; });
    std::sort(names.begin(), names.end());
    return names;
  }
};

}  // namespace gqmm::cli
