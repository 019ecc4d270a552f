#include "io/checkpoint.hpp"

#include "io_test_files.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <string>
#include <vector>

namespace gqmm::io {
namespace {

struct ZeroTensor {
  std::string name;
  std::string type;
  Shape shape;
};

/// A safetensors file of zeros.
std::string zeros(const std::vector<ZeroTensor>& specs, const nlohmann::json& metadata = nlohmann::json::object()) {
  nlohmann::json header = {{"__metadata__", metadata}};
  std::int64_t offset = 0;
  for (const ZeroTensor& spec : specs) {
    const std::int64_t end = offset + byte_count(spec.type, spec.shape).value();
    header[spec.name] = {{"dtype", spec.type}, {"shape", spec.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  return safetensors_bytes(header.dump(), std::string(static_cast<std::size_t>(offset), '\0'));
}

/// Layer "l": 3 experts of N = 8, with `words` words and `groups` scales per row.
std::vector<ZeroTensor> layer(std::int64_t words, std::int64_t groups, const std::string& scale_type = "F16") {
  std::vector<ZeroTensor> specs = {{"l.weight", "U32", {3, 8, words}}, {"l.scales", scale_type, {3, 8, groups}}};
  if (scale_type != "U8") {
    specs.push_back({"l.biases", scale_type, {3, 8, groups}});
  }
  return specs;
}

/// Opens the checkpoint and expects no notice.
Checkpoint open_quietly(const std::filesystem::path& path) {
  return open_checkpoint(path, [](std::string_view notice) { ADD_FAILURE() << notice; });
}

/// Opens the checkpoint and returns its notices, one in each line.
std::string notices_of(const std::filesystem::path& path) {
  std::string notices;
  (void)open_checkpoint(path, [&](std::string_view notice) { notices.append(notice).append("\n"); });
  return notices;
}

TEST(Checkpoint, TheRealModelsTensorsHaveTheirOwnBits) {
  const Checkpoint model = open_checkpoint(GQMM_TEST_MODEL);
  const auto tensors = quantized_tensors(model);
  EXPECT_EQ(tensors.size(), 25U);  // 3 layers of q, k, v, o, router and three expert projections, and the embedding
  for (const QuantizedTensor& tensor : tensors) {
    const bool router = tensor.name.ends_with("mlp.gate");
    EXPECT_EQ(tensor.format().bits, router ? 8 : 4) << tensor.name;
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
  const Checkpoint model = open_quietly(folder.path());
  EXPECT_EQ(model.files.size(), 2U);
  EXPECT_EQ(model.tensors.size(), 3U) << "the index of a float model names no scales, so all tensors of its files are read";
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
  EXPECT_EQ(tensors[0].format().bits, 4);
  EXPECT_EQ(*tensors[0].weights.group_size, 32);
}

TEST(Checkpoint, LayersSwitchedOffAreNotQuantized) {
  const TemporaryFolder folder;
  const auto file = folder.write("m.safetensors", zeros(layer(8, 1)));
  folder.write("config.json", R"({"quantization": {"bits": 4, "group_size": 64, "l": false}})");
  EXPECT_TRUE(quantized_tensors(open_checkpoint(file)).empty());
}

TEST(Checkpoint, ALayersOwnSettingsThatContradictItsShapesAreAnError) {
  const TemporaryFolder folder;
  const auto file = folder.write("m.safetensors", zeros(layer(8, 1)));
  for (const char* settings : {R"({"bits": 8})", R"({"group_size": 32})", R"({"mode": "mxfp4"})"}) {
    folder.write("config.json", std::string(R"({"quantization": {"bits": 4, "group_size": 64, "l": )") + settings + "}}");
    EXPECT_ERROR_WITH(quantized_tensors(open_quietly(file)), "\"l\": weight U32 (3, 8, 8), scales F16 (3, 8, 1) and biases");
  }
}

TEST(Checkpoint, DefaultsThatContradictTheShapesGiveWayToThem) {
  const TemporaryFolder folder;
  struct ContradictedDefaults {
    std::vector<ZeroTensor> specs;
    const char* config;
    Mode mode;
    int bits;
    int group_size;
    const char* inferred;
  };
  const ContradictedDefaults cases[] = {
      {layer(8, 1), R"({"bits": 4, "group_size": 64})", Mode::affine, 4, 64, ""},
      {layer(8, 1), R"({"bits": 8, "group_size": 64})", Mode::affine, 4, 64, "bits"},
      {layer(16, 1), R"({"bits": 4, "group_size": 64})", Mode::affine, 8, 64, "bits"},
      {layer(12, 1), R"({"bits": 4, "group_size": 64})", Mode::affine, 6, 64, "bits"},
      {layer(8, 1), R"({"bits": 4, "group_size": 128})", Mode::affine, 2, 128, "bits"},
      {layer(16, 1), R"({"bits": 4, "group_size": 32})", Mode::affine, 4, 128, "group_size"},
      {layer(16, 1), R"({"mode": "mxfp4"})", Mode::affine, 8, 64, "bits, group_size, mode"},
      {layer(16, 4, "U8"), R"({"bits": 4, "group_size": 64})", Mode::mxfp4, 4, 32, "group_size, mode"},
      {layer(32, 4, "U8"), R"({"mode": "mxfp4"})", Mode::mxfp8, 8, 32, "bits, mode"},
      {layer(8, 4, "U8"), R"({"mode": "mxfp4"})", Mode::nvfp4, 4, 16, "group_size, mode"},
      {layer(16, 1), R"({"bits": 4, "group_size": 64, "language_model.l": {"bits": 4, "group_size": 128}})", Mode::affine, 4, 128,
       "group_size"},
      {layer(8, 1), R"({"bits": 4, "group_size": 64, "language_model.l": {"bits": 8, "group_size": 32}})", Mode::affine, 8, 32,
       "bits, group_size"},
      {layer(8, 1), R"({"bits": 4, "group_size": 64, "language_model.l": {"bits": 8, "group_size": 64}})", Mode::affine, 4, 64,
       ""},
      {layer(8, 1), R"({"other": {"bits": 8, "group_size": 64}, "m.l": {"bits": 4, "group_size": 64}})", Mode::affine, 4, 64, ""},
  };
  for (const ContradictedDefaults& each : cases) {
    const auto file = folder.write("m.safetensors", zeros(each.specs));
    folder.write("config.json", std::string(R"({"quantization": )") + each.config + "}");
    const QuantizedTensor tensor = quantized_tensors(open_quietly(file)).at(0);
    EXPECT_EQ(tensor.format().mode, each.mode) << each.config;
    EXPECT_EQ(tensor.format().bits, each.bits) << each.config;
    EXPECT_EQ(*tensor.weights.group_size, each.group_size) << each.config;
    EXPECT_EQ(tensor.inferred, each.inferred) << each.config;
  }
}

TEST(Checkpoint, ShapesThatFitNothingOrTooMuchAreErrorsBesideDefaultsToo) {
  const TemporaryFolder folder;
  folder.write("config.json", R"({"quantization": {"bits": 4, "group_size": 64}})");
  EXPECT_ERROR_WITH(quantized_tensors(open_quietly(folder.write("m.safetensors", zeros(layer(7, 1))))), "no format fits");
  folder.write("config.json", R"({"quantization": {"bits": 3, "group_size": 32}})");
  EXPECT_ERROR_WITH(quantized_tensors(open_quietly(folder.write("m.safetensors", zeros(layer(16, 1))))),
                    "contradict the settings affine 3-bit, group_size 32, and fit affine 4-bit in groups of 128, affine 8-bit in "
                    "groups of 64; give the layer its own settings");
}

TEST(Checkpoint, SettingsOfALayerThatCannotBeUnderstoodAreNamedWhereItExists) {
  const TemporaryFolder folder;
  const auto file = folder.write("m.safetensors", zeros(layer(8, 1)));
  folder.write("config.json", R"({"quantization": {"bits": 4, "group_size": 64, "absent": {"bits": 16}}})");
  EXPECT_EQ(quantized_tensors(open_quietly(file)).size(), 1U);
  folder.write("config.json", R"({"quantization": {"bits": 4, "group_size": 64, "l": {"bits": 16}}})");
  EXPECT_ERROR_WITH(quantized_tensors(open_quietly(file)), "quantization, layer \"l\"] bits = 16 is not available");
}

TEST(Checkpoint, ForeignMetadataAndKeysArePassedOver) {
  const TemporaryFolder folder;
  folder.write("config.json", R"({"quantization": {"bits": 4, "group_size": 64}})");
  for (const char* metadata : {"int4", "[\"a\"]", R"({"quant_method": "awq", "bits": 8})", R"({"bits": 7})"}) {
    const auto file = folder.write("m.safetensors", zeros(layer(8, 1), {{"quantization", metadata}}));
    EXPECT_EQ(quantized_tensors(open_quietly(file)).at(0).format().bits, 4) << metadata;
  }
  const auto file = folder.write("m.safetensors", zeros(layer(3, 1)));
  folder.write("config.json", R"({"quantization": "int4"})");
  std::string told;
  const auto tell = [&told](std::string_view notice) { told = notice; };
  EXPECT_EQ(quantized_tensors(open_quietly(file), {}, tell).at(0).inferred, "bits, group_size, mode");
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "config.json is \"int4\", which are no settings of MLX; the shapes", told);
  folder.write("m.safetensors", zeros(layer(8, 1)));
  EXPECT_ERROR_WITH(quantized_tensors(open_quietly(file)), "config.json is \"int4\", which MLX does not know: put MLX's");
  folder.write("m.safetensors", zeros({{"l.weight", "F32", {2, 2}}}));
  EXPECT_TRUE(quantized_tensors(open_quietly(file)).empty());
  std::filesystem::remove(folder.path() / "config.json");
  folder.write("m.safetensors", zeros(layer(3, 1), {{"quantization", R"({"bits": 7})"}}));
  EXPECT_ERROR_WITH(open_quietly(file), "metadata \"quantization\"] bits = 7 is not available");
}

TEST(Checkpoint, AnIndexThatDoesNotMatchIsReplacedByTheFilesThatAreThere) {
  const TemporaryFolder folder;
  folder.write("model.safetensors", zeros({{"a", "U8", {1}}}));
  for (const char* index :
       {R"({"weight_map": {"a": "model-00001-of-00002.safetensors"}})", R"({"weight_map": {"b": "model.safetensors"}})",
        R"({"weight_map": {}})", "", "{", R"({"weight_map": {"a": "../model.safetensors"}})",
        R"({"weight_map": {"a": "model.safetensors", "a": "model.safetensors"}})",
        "version https://git-lfs.github.com/spec/v1\n"}) {
    folder.write("model.safetensors.index.json", index);
    const std::string notices = notices_of(folder.path());
    EXPECT_PRED_FORMAT2(::testing::IsSubstring, "; reading model.safetensors instead, as mlx-lm does\n", notices);
    EXPECT_EQ(std::count(notices.begin(), notices.end(), '\n'), 1) << notices;
  }
  folder.write("model.safetensors.index.json", R"({"metadata": {"x": NaN, "x": 1}, "weight_map": {"a": "./model.safetensors"}})");
  EXPECT_EQ(open_quietly(folder.path()).tensors.size(), 1U);
}

TEST(Checkpoint, FilesThatTheIndexDoesNotNameAddTheirTensors) {
  const TemporaryFolder folder;
  folder.write("model-1.safetensors", zeros({{"a", "U8", {1}}}));
  folder.write("model-2.safetensors", zeros({{"a", "U8", {2}}}));
  folder.write("model.safetensors.index.json", R"({"weight_map": {"a": "model-1.safetensors"}})");
  EXPECT_EQ(open_quietly(folder.path()).files.size(), 1U) << "nothing new in the other file";
  folder.write("model-2.safetensors", zeros({{"a", "U8", {2}}, {"b", "U8", {1}}}));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring,
                      "names no tensor of model-2.safetensors; reading what is in there all the same, as mlx-lm does\n",
                      notices_of(folder.path()));
  const Checkpoint model = open_checkpoint(folder.path(), [](std::string_view) {});
  EXPECT_EQ(model.files.size(), 2U);
  EXPECT_EQ(model.tensors.at("a").shape, Shape{1});
  EXPECT_TRUE(model.tensors.contains("b"));
}

TEST(Checkpoint, ShardsWithoutAnIndexAreAllRead) {
  const TemporaryFolder folder;
  folder.write("model-00001-of-00002.safetensors", zeros({{"a", "U8", {1}}, {"b", "U8", {1}}}));
  folder.write("model-00002-of-00002.safetensors", zeros({{"c", "U8", {1}}}));
  folder.write("adapters.safetensors", zeros({{"d", "U8", {1}}}));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "there is no model.safetensors.index.json; reading 2 files model*.safetensors",
                      notices_of(folder.path()));
  EXPECT_EQ(open_checkpoint(folder.path(), [](std::string_view) {}).tensors.size(), 3U);
  folder.write("model-00002-of-00002.safetensors", zeros({{"a", "U8", {2}}}));
  EXPECT_PRED_FORMAT2(
      ::testing::IsSubstring,
      "tensor \"a\" is in \"model-00001-of-00002.safetensors\" and in \"model-00002-of-00002.safetensors\", and that "
      "of the last file is used\n",
      notices_of(folder.path()));
  EXPECT_EQ(open_checkpoint(folder.path(), [](std::string_view) {}).tensors.at("a").shape, Shape{2});
}

TEST(Checkpoint, AShardThatCannotBeReadIsAnErrorWithoutANotice) {
  const TemporaryFolder folder;
  folder.write("model-1.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n");
  folder.write("model.safetensors.index.json", R"({"weight_map": {"a": "model-1.safetensors"}})");
  EXPECT_ERROR_WITH(open_quietly(folder.path()), "model-1.safetensors] is a Git LFS pointer");
}

TEST(Checkpoint, AFolderThatIsNoModelSaysWhatItHolds) {
  const auto error_with = [](const std::string& name) {
    const TemporaryFolder folder;
    folder.write(name, "x");
    return error_of([&] { (void)open_quietly(folder.path()); });
  };
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "holds neither model.safetensors nor model.safetensors.index.json, only adapters",
                      error_with("adapters.safetensors"));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "but weights.00.safetensors; name one file", error_with("weights.00.safetensors"));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "GGUF files", error_with("model-q4.gguf"));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "PyTorch files", error_with("pytorch_model.bin"));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "snapshots", error_with("snapshots"));
}

TEST(Checkpoint, FilesOfOtherKindsAreNamed) {
  const TemporaryFolder folder;
  const auto error_with = [&](std::string_view bytes) {
    const auto file = folder.write("model.safetensors", bytes);
    return error_of([&] { (void)open_quietly(file); });
  };
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "is a Git LFS pointer",
                      error_with("version https://git-lfs.github.com/spec/v1\noid"));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "is a GGUF file", error_with("GGUF\3\0\0\0\1\1\1\1\1\1\1\1"));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "is a zip archive", error_with("PK\3\4\1\1\1\1\1\1"));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "is a web page", error_with("<!DOCTYPE html><html>"));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "is JSON text, not a safetensors file", error_with(R"({"weight_map": {}})"));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "Hugging Face hub", error_with("Entry not found"));
  std::filesystem::remove(folder.path() / "model.safetensors");
  std::filesystem::create_symlink("../blobs/1234", folder.path() / "model.safetensors");
  EXPECT_ERROR_WITH(open_quietly(folder.path()), "is a link to \"../blobs/1234\", which is not there");
  std::filesystem::remove(folder.path() / "model.safetensors");
  std::filesystem::create_directory(folder.path() / "model.safetensors");
  EXPECT_ERROR_WITH(open_quietly(folder.path()), "is a folder, not a file");
}

TEST(Checkpoint, TheNameOfAModelOnTheHubIsNoPath) {
  for (const char* name : {"mlx-community/Qwen3-30B-A3B-4bit", "https://huggingface.co/mlx-community/Qwen3-30B-A3B-4bit",
                           "https://huggingface.co/mlx-community/Qwen3-30B-A3B-4bit/tree/main",
                           "mlx-community/Qwen3-30B-A3B-4bit/", "hf://mlx-community/Qwen3-30B-A3B-4bit"}) {
    EXPECT_ERROR_WITH(open_quietly(name), "`hf download mlx-community/Qwen3-30B-A3B-4bit --local-dir FOLDER`");
  }
  const TemporaryFolder folder;
  for (const std::string& name :
       {std::string("./absent/b"), std::string("../absent/b"), std::string("/absent/b"), std::string("absent"),
        std::string("absent/b/c"), std::string("absent/b.safetensors"), folder.path().native() + "/absent"}) {
    const std::string error = error_of([&] { (void)open_quietly(name); });
    EXPECT_PRED_FORMAT2(::testing::IsSubstring, "cannot open: No such file or directory", error);
    EXPECT_PRED_FORMAT2(::testing::IsNotSubstring, "hf download", error);
  }
}

TEST(Checkpoint, AnotherSchemeWithoutTensorsOfMlxIsNamed) {
  const TemporaryFolder folder;
  const auto file = folder.write("m.safetensors", zeros({{"l.qweight", "I32", {16, 64}}, {"l.scales", "F16", {1, 64}}}));
  EXPECT_ERROR_WITH(quantized_tensors(open_quietly(file)),
                    "holds weights quantized by GPTQ (tensor \"l.qweight\", I32 (16, 64)); ");
  folder.write("m.safetensors", zeros({{"l.weight", "U8", {16, 64}}}));
  folder.write("config.json", R"({"quantization_config": {"quant_method": "bitsandbytes"}})");
  EXPECT_ERROR_WITH(quantized_tensors(open_quietly(file)),
                    "holds weights quantized by bitsandbytes (config.json: quantization_config");
}

TEST(Checkpoint, GlobalScalesBelongToTheirTensors) {
  const TemporaryFolder folder;
  folder.write("config.json", R"({"quantization": {"mode": "nvfp4", "group_size": 16, "bits": 4}})");
  const auto with_scale = [&](const std::string& type, const Shape& shape, std::int64_t words = 8) {
    std::vector<ZeroTensor> specs = layer(words, 4, "U8");
    specs.push_back({"l.global_scale", type, shape});
    return quantized_tensors(open_quietly(folder.write("m.safetensors", zeros(specs)))).at(0);
  };
  for (const Shape& shape : {Shape{3}, Shape{}, Shape{1}, Shape{1, 1}}) {
    const QuantizedTensor tensor = with_scale("F32", shape);
    ASSERT_TRUE(tensor.weights.global_scale);
    EXPECT_EQ(tensor.weights.global_scale->shape(), shape);
    EXPECT_EQ(tensor.nbytes(), 3 * 8 * (8 * 4 + 4) + 4 * element_count(shape));
  }
  EXPECT_ERROR_WITH(with_scale("F32", {2}), "global_scale is F32 (2,); it should be F32, of one value or one per matrix");
  EXPECT_ERROR_WITH(with_scale("F16", {3}), "global_scale is F16 (3,); it should be F32");
  EXPECT_ERROR_WITH(with_scale("F32", {3}, 16), "there is a global_scale F32 (3,), but mode \"mxfp4\" has none");
}

TEST(Checkpoint, WithoutSettingsTheShapesDecideWhenOnlyOneFormatFits) {
  const TemporaryFolder folder;
  const auto tensor = [&](const std::vector<ZeroTensor>& specs, const AssumedSettings& assumed = {}) {
    return quantized_tensors(open_checkpoint(folder.write("m.safetensors", zeros(specs))), assumed).at(0);
  };
  EXPECT_EQ(tensor(layer(16, 4, "U8")).format().mode, Mode::mxfp4);
  EXPECT_EQ(tensor(layer(32, 4, "U8")).format().mode, Mode::mxfp8);
  EXPECT_EQ(tensor(layer(8, 4, "U8")).format().mode, Mode::nvfp4);
  EXPECT_EQ(tensor(layer(3, 1)).format().bits, 3);  // 96 bits per group: 3 bits in groups of 32, as 1.5 in groups of 64 is none
  EXPECT_ERROR_WITH(tensor(layer(8, 1)),
                    "fit affine 2-bit in groups of 128, affine 4-bit in groups of 64, affine 8-bit in groups of 32");
  EXPECT_EQ(tensor(layer(8, 1), {.mode = {}, .bits = {}, .group_size = 64}).format().bits, 4);
  EXPECT_ERROR_WITH(tensor(layer(7, 1)), "no format fits");
}

TEST(Checkpoint, PartsThatDoNotBelongTogetherAreErrors) {
  const TemporaryFolder folder;
  const auto open = [&](const std::vector<ZeroTensor>& specs) {
    return quantized_tensors(open_checkpoint(folder.write("m.safetensors", zeros(specs))));
  };
  EXPECT_ERROR_WITH(open({{"l.weight", "U32", {8}}, {"l.scales", "U8", {2}}}), "fewer than two dimensions");
  EXPECT_ERROR_WITH(open({{"l.weight", "U32", {3, 8}}, {"l.scales", "U8", {4, 2}}}), "differ in more than the last dimension");
  EXPECT_ERROR_WITH(open({{"l.weight", "U32", {3, 8}}, {"l.scales", "U8", {}}}), "differ in more than the last dimension");
  EXPECT_ERROR_WITH(open({{"l.weight", "U32", {3, 8}}, {"l.scales", "F16", {3, 1}}, {"l.biases", "BF16", {3, 1}}}),
                    "biases BF16 (3, 1) differ from scales F16 (3, 1)");
}

TEST(Checkpoint, WeightsWithoutScalesAreToldAndFloatWeightsAreNotQuantized) {
  const TemporaryFolder folder;
  const auto file = folder.write(
      "m.safetensors",
      zeros({{"a.weight", "U32", {3, 8}}, {"b.weight", "F32", {3, 8}}, {"b.scales", "F32", {3, 8}}, {"c.weight", "U32", {3}}}));
  std::string told;
  EXPECT_TRUE(quantized_tensors(open_quietly(file), {}, [&told](std::string_view notice) { told += notice; }).empty());
  EXPECT_EQ(told, "[" + file.native() +
                      "] \"a.weight\" is uint32, as quantized weights are, but has no scales beside it; a file may be missing");
}

}  // namespace
}  // namespace gqmm::io
