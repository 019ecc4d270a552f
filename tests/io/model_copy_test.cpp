// Tests what a quantized copy of a model takes from the original.
#include "io/model_copy.hpp"

#include "io/json.hpp"

#include "io_test_files.hpp"

#include <fmt/format.h>

#include <string>
#include <vector>

namespace gqmm::io {
namespace {

TEST(ConfigCopy, KeepsEveryOtherMemberAsItIsWritten) {
  const std::string settings = R"({"bits":4})";
  for (const std::string members : {
           "",
           R"("a": 1)",
           R"("a": 1e-05, "b": [1, {"quantization": 2}], "c": {"quantization_config": {"x": "}"}})",
           R"("quote\"": "\\", "brace": "{,}", "empty": {}, "é": "\u00e9")",
           R"("limit": Infinity, "other": -Infinity, "none": NaN, "big": 1e999)",
           "\n\t\"a\" :\t1 ,\r\n \"b\":2\n",
       }) {
    for (const std::string& text : {"{" + members + "}", "  {" + members + "}\n"}) {
      const std::string copy = with_quantization(text, settings);
      const std::string end = fmt::format("\"quantization\": {0},\n    \"quantization_config\": {0}\n}}\n", settings);
      ASSERT_TRUE(copy.ends_with(end)) << copy;
      const auto parse = [](const std::string& json) { return parse_python_json(json, "config", {}); };
      nlohmann::json expected = parse(text);
      expected["quantization"] = expected["quantization_config"] = parse(settings);
      EXPECT_EQ(parse(copy), expected) << copy;
    }
  }
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, R"("big": 1e999)", with_quantization(R"({"big": 1e999})", settings));
}

TEST(ConfigCopy, ReplacesSettingsOfBefore) {
  for (const char* before :
       {R"("quantization": null)", R"("quantization": {"a": [1, "}"]})", R"("quantization_config": {"bits": 8})",
        R"("quantization": 1, "quantization_config": "\"", "quantization": 2)"}) {
    for (const std::string& text : {std::string("{") + before + "}", std::string(R"({"a": 1, )") + before + "}",
                                    std::string("{") + before + R"(, "a": 1})"}) {
      const nlohmann::json copy = parse_json(with_quantization(text, R"({"bits": 4})"), "config");  // throws for a key twice
      EXPECT_EQ(copy["quantization"]["bits"], 4);
      EXPECT_EQ(copy["quantization_config"]["bits"], 4);
      EXPECT_EQ(copy.size(), copy.contains("a") ? 3U : 2U);
      EXPECT_EQ(copy.contains("a"), text.starts_with("{\"a\"") || text.ends_with("\"a\": 1}"));
    }
  }
}

TEST(FilesBesideWeights, AreAllButWeightsIndicesAndHiddenOnes) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.path() / "additional_chat_templates");
  std::filesystem::create_directory(folder.path() / "onnx");
  for (const char* name : {"config.json", "tokenizer.model", "vocab.txt", "merges.txt", "modeling_x.py", "LICENSE",
                           "additional_chat_templates/a.jinja", "model-00001-of-00002.safetensors",
                           "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
                           "consolidated.00.pth", "model.gguf", ".gitattributes", "onnx/model.json"}) {
    folder.write(name, "x");
  }
  EXPECT_EQ(files_beside_weights(folder.path()),
            (std::vector<std::string>{"LICENSE", "additional_chat_templates/a.jinja", "merges.txt", "modeling_x.py",
                                      "tokenizer.model", "vocab.txt"}));
  std::filesystem::create_symlink("absent", folder.path() / "tokenizer.json");
  EXPECT_ERROR_WITH(files_beside_weights(folder.path()), "tokenizer.json] is a link that leads to no file");
  std::filesystem::remove(folder.path() / "tokenizer.json");
  folder.write("tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  EXPECT_ERROR_WITH(files_beside_weights(folder.path()),
                    "tokenizer.json] is a Git LFS pointer, not the file itself; run `git lfs");
  folder.write("tokenizer.json", "");
  EXPECT_EQ(files_beside_weights(folder.path()).size(), 7U) << "an empty file is a file";
}

}  // namespace
}  // namespace gqmm::io
