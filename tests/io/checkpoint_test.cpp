#include "io/checkpoint.hpp"

#include "io_test_files.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <string>
#include <vector>

namespace gqmm::io {
namespace {

struct Spec {
  std::string name;
  std::string type;
  Shape shape;
};

/// A safetensors file of zeros.
std::string zeros(const std::vector<Spec>& specs, const nlohmann::json& metadata = nlohmann::json::object()) {
  nlohmann::json header = {{"__metadata__", metadata}};
  std::int64_t offset = 0;
  for (const Spec& spec : specs) {
    const std::int64_t end = offset + byte_count(spec.type, spec.shape).value();
    header[spec.name] = {{"dtype", spec.type}, {"shape", spec.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  return safetensors_bytes(header.dump(), std::string(static_cast<std::size_t>(offset), '\0'));
}

/// Layer "l": 3 experts of N = 8, with `words` words and `groups` scales per row.
std::vector<Spec> layer(std::int64_t words, std::int64_t groups, const std::string& scale_type = "F16") {
  std::vector<Spec> specs = {{"l.weight", "U32", {3, 8, words}}, {"l.scales", scale_type, {3, 8, groups}}};
  if (scale_type != "U8") {
    specs.push_back({"l.biases", scale_type, {3, 8, groups}});
  }
  return specs;
}

TEST(Checkpoint, TheRealModelsTensorsHaveTheirOwnBits) {
  const Checkpoint model = open_checkpoint(GQMM_TEST_MODEL);
  const auto tensors = quantized_tensors(model);
  EXPECT_EQ(tensors.size(), 25U);  // 3 layers of q, k, v, o, router and three expert projections, and the embedding
  for (const QuantizedTensor& tensor : tensors) {
    const bool router = tensor.name.ends_with("mlp.gate");
    EXPECT_EQ(tensor.format->bits, router ? 8 : 4) << tensor.name;
    EXPECT_EQ(tensor.is_expert_tensor(), tensor.name.find("switch_mlp") != std::string::npos) << tensor.name;
    EXPECT_EQ(tensor.experts, tensor.is_expert_tensor() ? 32 : 1) << tensor.name;
    EXPECT_EQ(tensor.K, tensor.name.ends_with("down_proj") ? 128 : 256) << tensor.name;
  }
}

TEST(Checkpoint, AFileInsideAModelFolderTakesItsConfig) {
  const Checkpoint file = open_checkpoint(std::filesystem::path(GQMM_TEST_MODEL) / "model.safetensors");
  EXPECT_TRUE(file.quantization);
  EXPECT_EQ(quantized_tensors(file).size(), 25U);
}

TEST(Checkpoint, ShardsAreReadThroughTheirIndex) {
  const TemporaryFolder folder;
  folder.write("one.safetensors", zeros({{"l.weight", "U32", {2, 16}}, {"unlisted", "U8", {1}}}));
  folder.write("two.safetensors", zeros({{"l.scales", "U8", {2, 4}}}));
  folder.write("model.safetensors.index.json",
               R"({"weight_map": {"l.weight": "one.safetensors", "l.scales": "two.safetensors"}})");
  folder.write("config.json", R"({"quantization": {"mode": "mxfp4"}})");
  const Checkpoint model = open_checkpoint(folder.path());
  EXPECT_EQ(model.files.size(), 2U);
  EXPECT_EQ(model.tensors.size(), 2U);
  const auto tensors = quantized_tensors(model);
  ASSERT_EQ(tensors.size(), 1U);
  EXPECT_EQ(tensors[0].K, 128);
  EXPECT_EQ(tensors[0].nbytes(), 2 * 16 * 4 + 2 * 4);
}

TEST(Checkpoint, AnIndexCannotLeadOutOfTheFolder) {
  for (const std::string file : {"../secret", "/etc/passwd", "a/b", "..", ".", "", "a\\\\b", "nul\\u0000byte"}) {
    EXPECT_ERROR_WITH(parse_weight_map(R"({"weight_map": {"t": ")" + file + "\"}}", "index"),
                      "which is not the name of a file in the same folder");
  }
  EXPECT_ERROR_WITH(parse_weight_map(R"({"weight_map": {"t": 1}})", "index"), "\"t\" is in 1, which is not the name");
  EXPECT_ERROR_WITH(parse_weight_map(R"({"weight_map": []})", "index"), "no JSON object \"weight_map\"");
  EXPECT_ERROR_WITH(parse_weight_map("[]", "index"), "no JSON object \"weight_map\"");
}

TEST(Checkpoint, MissingShardsTensorsAndFilesAreErrors) {
  const TemporaryFolder folder;
  EXPECT_ERROR_WITH(open_checkpoint(folder.path()), "holds neither model.safetensors nor model.safetensors.index.json");
  EXPECT_ERROR_WITH(open_checkpoint(folder.path() / "absent"), "No such file");
  folder.write("model.safetensors.index.json", R"({"weight_map": {"a": "one.safetensors"}})");
  EXPECT_ERROR_WITH(open_checkpoint(folder.path()), "one.safetensors] cannot open");
  folder.write("one.safetensors", zeros({{"b", "U8", {1}}}));
  EXPECT_ERROR_WITH(open_checkpoint(folder.path()), "tensor \"a\" should be in \"one.safetensors\" but is not");
}

TEST(Checkpoint, SettingsInTheFilesMetadataHoldBeforeConfigJson) {
  const TemporaryFolder folder;
  const auto file = folder.write("m.safetensors", zeros(layer(8, 2), {{"quantization", R"({"bits": 4, "group_size": 32})"}}));
  folder.write("config.json", R"({"quantization": {"bits": 2, "group_size": 64}})");
  const auto tensors = quantized_tensors(open_checkpoint(file));
  ASSERT_EQ(tensors.size(), 1U);
  EXPECT_EQ(tensors[0].format->bits, 4);
  EXPECT_EQ(tensors[0].group_size, 32);
}

TEST(Checkpoint, LayersSwitchedOffAreNotQuantized) {
  const TemporaryFolder folder;
  const auto file = folder.write("m.safetensors", zeros(layer(8, 1)));
  folder.write("config.json", R"({"quantization": {"bits": 4, "group_size": 64, "l": false}})");
  EXPECT_TRUE(quantized_tensors(open_checkpoint(file)).empty());
}

TEST(Checkpoint, SettingsThatContradictTheShapesAreAnError) {
  const TemporaryFolder folder;
  const auto file = folder.write("m.safetensors", zeros(layer(8, 1)));
  for (const char* settings : {R"({"bits": 8})", R"({"group_size": 32})", R"({"mode": "mxfp4"})"}) {
    folder.write("config.json", std::string(R"({"quantization": )") + settings + "}");
    EXPECT_ERROR_WITH(quantized_tensors(open_checkpoint(file)), "\"l\": weight U32 (3, 8, 8), scales F16 (3, 8, 1) and biases");
  }
}

TEST(Checkpoint, WithoutSettingsTheShapesDecideWhenOnlyOneFormatFits) {
  const TemporaryFolder folder;
  const auto tensor = [&](const std::vector<Spec>& specs, const AssumedSettings& assumed = {}) {
    return quantized_tensors(open_checkpoint(folder.write("m.safetensors", zeros(specs))), assumed).at(0);
  };
  EXPECT_EQ(tensor(layer(16, 4, "U8")).format->mode, Mode::mxfp4);
  EXPECT_EQ(tensor(layer(32, 4, "U8")).format->mode, Mode::mxfp8);
  EXPECT_EQ(tensor(layer(8, 4, "U8")).format->mode, Mode::nvfp4);
  EXPECT_EQ(tensor(layer(3, 1)).format->bits, 3);  // 96 bits per group: 3 bits in groups of 32, as 1.5 in groups of 64 is none
  EXPECT_ERROR_WITH(tensor(layer(8, 1)),
                    "fit affine 2-bit in groups of 128, affine 4-bit in groups of 64, affine 8-bit in groups of 32");
  EXPECT_EQ(tensor(layer(8, 1), {.mode = {}, .bits = {}, .group_size = 64}).format->bits, 4);
  EXPECT_ERROR_WITH(tensor(layer(7, 1)), "no format fits");
}

TEST(Checkpoint, PartsThatDoNotBelongTogetherAreErrors) {
  const TemporaryFolder folder;
  const auto open = [&](const std::vector<Spec>& specs) {
    return quantized_tensors(open_checkpoint(folder.write("m.safetensors", zeros(specs))));
  };
  EXPECT_ERROR_WITH(open({{"l.weight", "U32", {8}}, {"l.scales", "U8", {2}}}), "fewer than two dimensions");
  EXPECT_ERROR_WITH(open({{"l.weight", "U32", {3, 8}}, {"l.scales", "U8", {4, 2}}}), "differ in more than the last dimension");
  EXPECT_ERROR_WITH(open({{"l.weight", "U32", {3, 8}}, {"l.scales", "U8", {}}}), "differ in more than the last dimension");
  EXPECT_ERROR_WITH(open({{"l.weight", "U32", {3, 8}}, {"l.scales", "F16", {3, 1}}, {"l.biases", "BF16", {3, 1}}}),
                    "biases BF16 (3, 1) differ from scales F16 (3, 1)");
}

TEST(Checkpoint, WeightsWithoutScalesAndFloatWeightsAreNotQuantized) {
  const TemporaryFolder folder;
  const auto file = folder.write("m.safetensors",
                                 zeros({{"a.weight", "U32", {3, 8}}, {"b.weight", "F32", {3, 8}}, {"b.scales", "F32", {3, 8}}}));
  EXPECT_TRUE(quantized_tensors(open_checkpoint(file)).empty());
}

}  // namespace
}  // namespace gqmm::io
