#include "io/foreign_scheme.hpp"

#include "io_test_files.hpp"

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace gqmm::io {
namespace {

using nlohmann::json;

struct Named {
  std::string name;
  std::string type;
  Shape shape;
};

TensorMap tensors_of(const std::vector<Named>& list) {
  TensorMap tensors;
  for (const Named& each : list) {
    Tensor tensor;
    tensor.type = each.type;
    tensor.shape = each.shape;
    tensors.emplace(each.name, tensor);
  }
  return tensors;
}

/// The name of the scheme of these tensors, or "none".
std::string name_of_scheme(const std::vector<Named>& list, const json& config = nullptr) {
  const auto scheme = find_foreign_scheme(config.is_null() ? nullptr : &config, tensors_of(list));
  return scheme ? scheme->name : "none";
}

TEST(ForeignScheme, TensorsAloneShowTheScheme) {
  EXPECT_EQ(
      name_of_scheme(
          {{"l.qweight", "I32", {16, 64}}, {"l.qzeros", "I32", {1, 8}}, {"l.scales", "F16", {1, 64}}, {"l.g_idx", "I32", {128}}}),
      "GPTQ");
  EXPECT_EQ(name_of_scheme({{"l.qweight", "I32", {16, 64}}, {"l.qzeros", "I32", {1, 8}}, {"l.scales", "F16", {1, 64}}}), "GPTQ");
  EXPECT_EQ(name_of_scheme({{"l.qweight", "I32", {128, 8}}, {"l.qzeros", "I32", {1, 8}}, {"l.scales", "F16", {1, 64}}}), "AWQ");
  EXPECT_EQ(
      name_of_scheme({{"l.weight_packed", "I32", {64, 16}}, {"l.weight_scale", "BF16", {64, 1}}, {"l.weight_shape", "I64", {2}}}),
      "compressed-tensors");
  EXPECT_EQ(name_of_scheme({{"l.weight", "F8_E4M3", {64, 128}}, {"l.weight_scale_inv", "F32", {1, 1}}}), "fp8");
  EXPECT_EQ(name_of_scheme({{"l.weight", "F8_E4M3", {64, 128}}, {"l.weight_scale", "F32", {1}}}), "fp8");
  EXPECT_EQ(name_of_scheme({{"l.weight", "F8_E5M2", {64, 128}}}), "fp8");
  EXPECT_EQ(name_of_scheme({{"l.weight", "U8", {4096, 1}},
                            {"l.weight.absmax", "F32", {128}},
                            {"l.weight.quant_map", "F32", {16}},
                            {"l.weight.quant_state.bitsandbytes__nf4", "U8", {80}}}),
            "bitsandbytes");
  EXPECT_EQ(name_of_scheme({{"l.weight", "I8", {64, 128}}, {"l.SCB", "F32", {64}}}), "bitsandbytes");
  EXPECT_EQ(name_of_scheme(
                {{"mlp.experts.down_proj_blocks", "U8", {4, 64, 2, 16}}, {"mlp.experts.down_proj_scales", "U8", {4, 64, 2}}}),
            "gpt-oss mxfp4");
  EXPECT_EQ(
      name_of_scheme({{"l.weight", "U8", {64, 64}}, {"l.weight_scale", "F8_E4M3", {64, 8}}, {"l.weight_scale_2", "F32", {}}}),
      "ModelOpt");
  EXPECT_EQ(name_of_scheme({{"l.weight", "I8", {64, 128}}, {"l.weight_scale", "BF16", {64, 1}}}), "compressed-tensors");
  EXPECT_EQ(name_of_scheme({{"l.weight._data", "I8", {64, 128}}, {"l.weight._scale", "BF16", {64, 1}}}), "Quanto");
  EXPECT_EQ(name_of_scheme({{"l.W_q", "U8", {64, 128}}}), "HQQ");
  EXPECT_EQ(name_of_scheme({{"l.B", "I32", {8, 128}}, {"l.s", "F16", {1, 64}}}), "Marlin");
  EXPECT_EQ(name_of_scheme({{"l.dense_weights", "I64", {64, 8}}, {"l.row_offsets", "I32", {65}}}), "SpQR");
  EXPECT_EQ(name_of_scheme({{"l.weight:_data", "I8", {64, 128}}, {"l.weight:_scale", "F32", {64, 1}}}), "torchao");
  EXPECT_EQ(name_of_scheme({{"l._weight_qdata", "I8", {64, 128}}, {"l._weight_scale", "F32", {64, 1}}}), "torchao");
  EXPECT_EQ(name_of_scheme({{"l.compressed", "BF16", {64, 64}}, {"l.bitmask", "U8", {64, 16}}}), "compressed-tensors");
  EXPECT_EQ(name_of_scheme({{"l.Qidxs", "I16", {64, 16}}, {"l.SU", "F16", {128}}}), "QuIP#");
}

TEST(ForeignScheme, AFileOfOneLayerShowsItToo) {
  EXPECT_EQ(name_of_scheme({{"qweight", "I32", {128, 8}}, {"qzeros", "I32", {1, 8}}, {"scales", "F16", {1, 64}}}), "AWQ");
  EXPECT_EQ(name_of_scheme({{"qweight", "I32", {16, 64}}, {"scales", "F16", {1, 64}}, {"g_idx", "I32", {128}}}), "GPTQ");
  EXPECT_EQ(name_of_scheme({{"weight_packed", "I32", {64, 16}}, {"weight_scale", "BF16", {64, 1}}}), "compressed-tensors");
  EXPECT_EQ(name_of_scheme({{"weight", "I8", {64, 128}}, {"SCB", "F32", {64}}}), "bitsandbytes");
  EXPECT_EQ(name_of_scheme({{"W_q", "U8", {64, 128}}, {"scale", "F16", {128, 1}}}), "HQQ");
  EXPECT_EQ(name_of_scheme({{"weight", "U32", {64, 16}}, {"scales", "U8", {64, 4}}}), "none");
  EXPECT_EQ(find_mlx_scheme(tensors_of({{"weight", "U32", {64, 16}}, {"scales", "U8", {64, 4}}}))->name, "MLX");
  EXPECT_EQ(name_of_scheme({{"weight", "F32", {64, 16}}, {"bias", "F32", {64}}}), "none");
}

TEST(ForeignScheme, FilesOfPackedWeightsAreNamed) {
  EXPECT_EQ(
      name_of_scheme({{"codes", "U32", {4, 2, 16, 16}}, {"scales", "F32", {4, 2, 2, 16}}, {"biases", "F32", {4, 2, 2, 16}}}),
      "gqmm's PackedWeights.save");
}

TEST(ForeignScheme, FloatAndMlxTensorsAreNone) {
  EXPECT_EQ(name_of_scheme({}), "none");
  EXPECT_EQ(name_of_scheme({{"l.weight", "BF16", {64, 128}}, {"ids", "I64", {2, 8}}, {"mask", "BOOL", {8, 8}}}), "none");
  EXPECT_EQ(name_of_scheme({{"l.weight", "U32", {64, 16}}, {"l.scales", "U8", {64, 4}}}), "none");
  EXPECT_EQ(name_of_scheme({{"l.weight", "U32", {64, 16}}, {"l.scales", "F16", {64, 2}}, {"l.biases", "F16", {64, 2}}}), "none");
}

TEST(ForeignScheme, ConfigNamesItWhereATensorIsPacked) {
  const std::vector<Named> packed = {{"l.weight", "U8", {64, 64}}};
  const auto config = [](const char* method) { return json{{"quantization_config", {{"quant_method", method}}}}; };
  EXPECT_EQ(name_of_scheme(packed, config("awq")), "AWQ");
  EXPECT_EQ(name_of_scheme(packed, config("AQLM")), "AQLM");
  EXPECT_EQ(name_of_scheme(packed, config("fbgemm_fp8")), "FBGEMM fp8");
  EXPECT_EQ(name_of_scheme(packed, config("something new")), "\"something new\"");
  EXPECT_EQ(name_of_scheme(packed, json{{"text_config", config("hqq")}}), "HQQ");
  EXPECT_EQ(name_of_scheme(packed, json{{"quantization_config", {{"load_in_4bit", true}}}}), "bitsandbytes");
  EXPECT_EQ(name_of_scheme(packed, json{{"quantization_config", {{"quantization", {{"quant_algo", "NVFP4"}}}}}}), "ModelOpt");
  EXPECT_EQ(name_of_scheme(packed, json{{"compression_config", {{"format", "pack-quantized"}}}}), "compressed-tensors");
  EXPECT_EQ(name_of_scheme({}, config("mxfp4")), "gpt-oss mxfp4");
}

TEST(ForeignScheme, AKeyLeftInConfigDoesNotMakeFloatOrMlxTensorsForeign) {
  const json config = {{"quantization_config", {{"quant_method", "fp8"}}}};
  EXPECT_EQ(name_of_scheme({{"l.weight", "BF16", {64, 128}}, {"ids", "I32", {2, 8}}}, config), "none");
  EXPECT_EQ(name_of_scheme({{"l.weight", "U32", {64, 16}}, {"l.scales", "U8", {64, 4}}}, config), "none");
}

TEST(ForeignScheme, OddConfigsNameNoScheme) {
  const std::vector<Named> packed = {{"l.weight", "U8", {64, 64}}};
  for (const char* config : {"{}", "[]", "4", R"({"quantization_config": null})", R"({"quantization_config": "awq"})",
                             R"({"quantization_config": {"quant_method": 4}})", R"({"text_config": 4})",
                             R"({"quantization_config": {"quant_method": "mlx", "bits": 4}})",
                             R"({"quantization_config": {"load_in_4bit": false}})"}) {
    EXPECT_EQ(name_of_scheme(packed, json::parse(config)), "none") << config;
  }
}

TEST(ForeignScheme, TheSentenceNamesSchemeEvidenceAndRemedy) {
  const json config = {{"quantization_config", {{"quant_method", "gptq"}}}};
  const TensorMap tensors = tensors_of({{"a.qweight", "I32", {16, 64}}});
  EXPECT_EQ(describe(*find_foreign_scheme(nullptr, tensors))
                .find("holds weights quantized by GPTQ (tensor \"a.qweight\", I32 (16, 64)); "),
            0U);
  const std::string text = describe(*find_foreign_scheme(&config, tensors));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "config.json: quantization_config names \"gptq\"", text);
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "mlx_lm convert", text);
}

TEST(ForeignScheme, MlxIsFoundByItsWordsAndScales) {
  const auto scheme = find_mlx_scheme(tensors_of({{"l.scales", "U8", {64, 4}}, {"l.weight", "U32", {64, 16}}}));
  ASSERT_TRUE(scheme);
  EXPECT_EQ(scheme->name, "MLX");
  EXPECT_EQ(scheme->evidence, "tensor \"l.weight\", U32 (64, 16)");
  EXPECT_FALSE(find_mlx_scheme(tensors_of({{"l.weight", "U32", {64, 16}}})));
  EXPECT_FALSE(find_mlx_scheme(tensors_of({{"l.scales", "F32", {64, 4}}, {"l.weight", "F32", {64, 16}}})));
}

}  // namespace
}  // namespace gqmm::io
