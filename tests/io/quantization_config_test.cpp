#include "io/quantization_config.hpp"

#include "io_test_files.hpp"

namespace gqmm::io {
namespace {

void expect_settings(const std::optional<QuantizationSettings>& settings, Mode mode, int bits, int group_size) {
  ASSERT_TRUE(settings);
  EXPECT_EQ(settings->format->mode, mode);
  EXPECT_EQ(settings->format->bits, bits);
  EXPECT_EQ(settings->group_size, group_size);
}

TEST(QuantizationConfig, ALayersOwnSettingsDoNotInheritTheModelsMode) {
  const auto config = parse_model_config(
      R"({"hidden_size": 256, "quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4",
          "model.layers.0.mlp.gate": {"group_size": 64, "bits": 8}}})",
      "config.json");
  ASSERT_TRUE(config);
  expect_settings(config->settings_of("model.layers.0.mlp.up"), Mode::mxfp4, 4, 32);
  expect_settings(config->settings_of("model.layers.0.mlp.gate"), Mode::affine, 8, 64);
}

TEST(QuantizationConfig, FalseMeansNotQuantizedAndTrueMeansAsTheRest) {
  const auto config = parse_quantization(R"({"bits": 3, "lm_head": false, "embed": true})", "config.json");
  EXPECT_EQ(config.settings_of("lm_head"), std::nullopt);
  expect_settings(config.settings_of("embed"), Mode::affine, 3, 64);
}

TEST(QuantizationConfig, WhatIsLeftOutTakesTheDefaultsOfTheMode) {
  expect_settings(parse_quantization("{}", "f").defaults(), Mode::affine, 4, 64);
  expect_settings(parse_quantization(R"({"mode": "nvfp4"})", "f").defaults(), Mode::nvfp4, 4, 16);
  expect_settings(parse_quantization(R"({"mode": "mxfp8", "bits": null, "group_size": null})", "f").defaults(), Mode::mxfp8, 8,
                  32);
}

TEST(QuantizationConfig, OtherSchemesAreNotMistakenForMlx) {
  EXPECT_FALSE(parse_model_config("{}", "f"));
  EXPECT_FALSE(parse_model_config(R"({"quantization": null})", "f"));
  EXPECT_FALSE(parse_model_config(R"({"quantization_config": {"quant_method": "fp8", "fmt": "e4m3"}})", "f"));
  EXPECT_TRUE(parse_model_config(R"({"quantization_config": {"bits": 4, "group_size": 64}})", "f"));
}

TEST(QuantizationConfig, KeysOfOtherKindsAreIgnored) {
  EXPECT_NO_THROW((void)parse_quantization(R"({"bits": 4, "version": "1.0", "skipped": ["a"], "damping": 0.1})", "f"));
}

TEST(QuantizationConfig, ErrorsNameTheLayerTheValueAndTheRemedy) {
  EXPECT_ERROR_WITH(parse_quantization(R"({"bits": 7})", "f"),
                    "[f] bits = 7 is not available in mode \"affine\"; use one of 1, 2, 3, 4, 5, 6, 8");
  EXPECT_ERROR_WITH(parse_quantization(R"({"a.b": {"group_size": 16}})", "f"),
                    "[f, layer \"a.b\"] group_size = 16 is not available in mode \"affine\"");
  EXPECT_ERROR_WITH(parse_quantization(R"({"mode": "mxfp6"})", "f"), "[f] unknown mode \"mxfp6\"; use one of \"affine\"");
  EXPECT_ERROR_WITH(parse_quantization(R"({"mode": 4})", "f"), "mode is 4, not a string");
  EXPECT_ERROR_WITH(parse_quantization(R"({"bits": "4"})", "f"), "bits is \"4\", not a positive integer");
  EXPECT_ERROR_WITH(parse_quantization(R"({"bits": -4})", "f"), "bits is -4, not a positive integer");
  EXPECT_ERROR_WITH(parse_quantization(R"({"bits": 4294967300})", "f"), "bits is 4294967300, not a positive integer");
  EXPECT_ERROR_WITH(parse_model_config(R"({"quantization": 4})", "f"), "quantization is 4, not a JSON object");
  EXPECT_ERROR_WITH(parse_model_config("[]", "f"), "is [], not a JSON object");
}

TEST(QuantizationConfig, ReadsWhatItWrites) {
  for (const Format& format : formats()) {
    for (const int group_size : format.group_sizes) {
      const auto config = parse_quantization(quantization_json({&format, group_size}), "f");
      expect_settings(config.defaults(), format.mode, format.bits, group_size);
    }
  }
}

}  // namespace
}  // namespace gqmm::io
