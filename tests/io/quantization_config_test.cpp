#include "io/quantization_config.hpp"

#include "io_test_files.hpp"

namespace gqmm::io {
namespace {

std::optional<QuantizationConfig> config_of(std::string_view text) {
  return find_quantization(parse_model_config(text, "f"), "f").config;
}

void expect_settings(const std::optional<QuantizationSettings>& settings, Mode mode, int bits, int group_size) {
  ASSERT_TRUE(settings);
  EXPECT_EQ(settings->format->mode, mode);
  EXPECT_EQ(settings->format->bits, bits);
  EXPECT_EQ(settings->group_size, group_size);
}

TEST(QuantizationConfig, ALayersOwnSettingsDoNotInheritTheModelsMode) {
  const auto config = config_of(
      R"({"hidden_size": 256, "quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4",
          "model.layers.0.mlp.gate": {"group_size": 64, "bits": 8}}})");
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
  for (const char* config : {
           "{}",
           R"({"quantization": null})",
           R"({"quantization": {}})",
           R"({"quantization_config": {"quant_method": "fp8", "fmt": "e4m3"}})",
           R"({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}})",
           R"({"quantization_config": {"load_in_8bit": false, "load_in_4bit": true}})",
           R"({"quantization_config": {"load_in_8bit": false, "load_in_4bit": false}})",
           R"({"quantization": "int4"})",
           R"({"quantization": ["a", 4]})",
           R"({"quantization": NaN})",
           R"({"quantization": {"method": "smoothquant", "alpha": 0.5}})",
           R"({"vision_config": {"quantization": {"bits": 4, "group_size": 64}}})",
           R"({"text_config": "none"})",
       }) {
    EXPECT_FALSE(config_of(config)) << config;
  }
  EXPECT_EQ(find_quantization(parse_model_config(R"({"quantization": "int4"})", "f"), "f").foreign,
            "quantization in f is \"int4\"");
}

TEST(QuantizationConfig, MlxSettingsAreFoundWhereverToolsWriteThem) {
  for (
      const char* config : {
          R"({"quantization": {"bits": 3, "group_size": 32}})",
          R"({"quantization": {"bits": 3.0, "group_size": 32.0, "mode": null}})",
          R"({"quantization_config": {"bits": 3, "group_size": 32}})",
          R"({"quantization_config": {"bits": 3, "group_size": 32, "quant_method": "mlx"}})",
          R"({"quantization": null, "quantization_config": {"bits": 3, "group_size": 32}})",
          R"({"quantization": "int4", "quantization_config": {"bits": 3, "group_size": 32}})",
          R"({"text_config": {"quantization": {"bits": 3, "group_size": 32}}})",
          R"({"text_config": {"quantization_config": {"bits": 3, "group_size": 32}}})",
          R"({"quantization_config": {"quant_method": "fp8"}, "text_config": {"quantization": {"bits": 3, "group_size": 32}}})",
          R"({"thinker_config": {"text_config": {"quantization": {"bits": 3, "group_size": 32}}}})",
          R"({"time_step_limit": [0.0, Infinity], "a": NaN, "b": -Infinity, "c": 1e999, "quantization": {"bits": 3, "group_size": 32}})",
          R"({"a": 1, "quantization": {"bits": 3, "group_size": 32}, "a": 2})",
          "\xef\xbb\xbf{\"quantization\": {\"bits\": 3, \"group_size\": 32}}",
      }) {
    const auto found = config_of(config);
    ASSERT_TRUE(found) << config;
    expect_settings(found->defaults(), Mode::affine, 3, 32);
  }
}

TEST(QuantizationConfig, AMethodThatIsAModeOfMlxGivesItsSettings) {
  const auto config = config_of(R"({"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["a"]}})");
  ASSERT_TRUE(config);
  expect_settings(config->defaults(), Mode::mxfp4, 4, 32);
}

TEST(QuantizationConfig, SettingsUnderAnotherPrefixAreFound) {
  const auto config = parse_quantization(
      R"({"bits": 4, "group_size": 64, "model.layers.0.gate": {"bits": 8, "group_size": 32}, "gate": {"bits": 2, "group_size": 64},
          "up": false})",
      "f");
  const auto longer = config.settings_under_other_prefixes("language_model.model.layers.0.gate");
  ASSERT_EQ(longer.size(), 2U);
  expect_settings(longer[0], Mode::affine, 8, 32);
  expect_settings(longer[1], Mode::affine, 2, 64);
  EXPECT_EQ(config.settings_under_other_prefixes("layers.0.gate").size(), 2U);
  EXPECT_EQ(config.settings_under_other_prefixes("delegate").size(), 0U);
  EXPECT_EQ(config.settings_under_other_prefixes("layers.0.up").size(), 0U);
}

TEST(QuantizationConfig, ModelAndLanguageModelStandInAnyOrderBeforeALayer) {
  const char* names[] = {"model.layers.0.up", "language_model.layers.0.up", "language_model.model.layers.0.up",
                         "model.language_model.layers.0.up", "layers.0.up"};
  for (const char* stated : names) {
    const auto config =
        parse_quantization(std::string(R"({"bits": 4, ")") + stated + R"(": {"bits": 8, "group_size": 32}})", "f");
    for (const char* name : names) {
      const std::size_t expected = std::string_view(name) == stated ? 0 : 1;  // its own name is no other prefix
      EXPECT_EQ(config.settings_under_other_prefixes(name).size(), expected) << stated << ", " << name;
    }
    EXPECT_TRUE(config.settings_under_other_prefixes("vision_tower.layers.0.up.down").empty());
    EXPECT_TRUE(config.settings_under_other_prefixes("model.layers.1.up").empty());
  }
}

TEST(QuantizationConfig, ADuplicateKeyIsAnErrorOnlyInTheSettings) {
  EXPECT_NO_THROW((void)config_of(R"({"a": 1, "a": 2, "b": {"c": 1, "c": 1}, "text_config": {"a": 1, "a": 1}})"));
  for (const char* config :
       {R"({"quantization": {"bits": 4, "bits": 8}})", R"({"quantization": {}, "quantization": {"bits": 8}})",
        R"({"text_config": {"quantization": {"l": {"bits": 4, "bits": 8}}}})",
        R"({"quantization_config": {"l": [{"x": 4, "x": 8}]}})"}) {
    EXPECT_ERROR_WITH(config_of(config), "appears twice in one JSON object");
  }
}

TEST(QuantizationConfig, MetadataOfAnotherToolAreForeignAndThoseOfMlxMustBeRight) {
  for (const char* text : {"int4", "", "[1]", "4", R"({"quant_method": "awq", "bits": 4, "group_size": 128})", "{}"}) {
    const FoundQuantization found = find_quantization_in_metadata(text, "f");
    EXPECT_FALSE(found.config) << text;
    EXPECT_PRED_FORMAT2(::testing::IsSubstring, "metadata \"quantization\" of f is", found.foreign);
  }
  EXPECT_TRUE(find_quantization_in_metadata(R"({"bits": 4, "group_size": 64})", "f").config);
  EXPECT_ERROR_WITH(find_quantization_in_metadata(R"({"bits": 7})", "f"), "metadata \"quantization\"] bits = 7 is not available");
}

TEST(QuantizationConfig, KeysOfOtherKindsAreIgnored) {
  EXPECT_NO_THROW((void)parse_quantization(R"({"bits": 4, "version": "1.0", "skipped": ["a"], "damping": 0.1})", "f"));
}

TEST(QuantizationConfig, ASettingInAnotherSpellingIsAnErrorAndNoDefault) {
  EXPECT_ERROR_WITH(parse_quantization(R"({"bits": 4, "groupsize": 32})", "f"),
                    "[f] \"groupsize\" is no key that MLX reads; write \"group_size\"");
  EXPECT_ERROR_WITH(parse_quantization(R"({"bits": 4, "groupSize": 32})", "f"), "write \"group_size\"");
  EXPECT_ERROR_WITH(config_of(R"({"quantization": {"nbits": 8, "group_size": 64}})"),
                    "[f, quantization] \"nbits\" is no key that MLX reads; write \"bits\"");
  EXPECT_ERROR_WITH(parse_quantization(R"({"Bits": 4, "group_size": 32})", "f"), "\"Bits\" is no key");
  EXPECT_ERROR_WITH(parse_quantization(R"({"a": {"bits": 4, "group-size": 32}})", "f").settings_of("a"),
                    "[f, layer \"a\"] \"group-size\" is no key");
  EXPECT_NO_THROW((void)parse_quantization(R"({"bits": 4, "group_size": 64, "groupsize": 1, "mode_of_tool": 3})", "f"));
}

TEST(QuantizationConfig, SettingsUnderAnotherPrefixThatCannotBeUnderstoodAreNamed) {
  const auto config = parse_quantization(R"({"bits": 4, "model.layers.0.up": {"bits": "8"}})", "f");
  EXPECT_ERROR_WITH(config.settings_under_other_prefixes("language_model.model.layers.0.up"),
                    "[f, layer \"model.layers.0.up\"] bits is \"8\", not a positive integer");
  EXPECT_TRUE(config.settings_under_other_prefixes("language_model.model.layers.1.up").empty());
}

TEST(QuantizationConfig, ErrorsNameTheLayerTheValueAndTheRemedy) {
  EXPECT_ERROR_WITH(parse_quantization(R"({"bits": 7})", "f"),
                    "[f] bits = 7 is not available in mode \"affine\"; use one of 1, 2, 3, 4, 5, 6, 8");
  EXPECT_ERROR_WITH(parse_quantization(R"({"a.b": {"group_size": 16}})", "f").settings_of("a.b"),
                    "[f, layer \"a.b\"] group_size = 16 is not available in mode \"affine\"");
  EXPECT_ERROR_WITH(parse_quantization(R"({"mode": "mxfp6"})", "f"), "[f] unknown mode \"mxfp6\"; use one of \"affine\"");
  EXPECT_ERROR_WITH(parse_quantization(R"({"mode": 4})", "f"), "mode is 4, not a string");
  EXPECT_ERROR_WITH(parse_quantization(R"({"bits": "4"})", "f"), "bits is \"4\", not a positive integer");
  EXPECT_ERROR_WITH(parse_quantization(R"({"bits": -4})", "f"), "bits is -4, not a positive integer");
  EXPECT_ERROR_WITH(parse_quantization(R"({"bits": 4294967300})", "f"), "bits is 4294967300, not a positive integer");
  EXPECT_ERROR_WITH(parse_quantization(R"({"bits": true})", "f"), "bits is true, not a positive integer");
  EXPECT_ERROR_WITH(parse_quantization(R"({"bits": 4.5})", "f"), "bits is 4.5, not a positive integer");
  EXPECT_ERROR_WITH(config_of(R"({"quantization": {"bits": NaN}})"), "[f, quantization] bits is \"NaN\", not a positive integer");
  EXPECT_ERROR_WITH(config_of(R"({"text_config": {"quantization": {"group_size": 1e999}}})"),
                    "[f, text_config.quantization] group_size is \"1e999\", not a positive integer");
  EXPECT_ERROR_WITH(parse_quantization(R"({"a": {"bits": "four"}})", "f").settings_of("a"), "[f, layer \"a\"] bits is \"four\"");
  EXPECT_ERROR_WITH(parse_quantization(R"({"a": {"nbits": 4}})", "f").settings_of("a"),
                    "is {\"nbits\":4}, neither true, false nor");
  EXPECT_ERROR_WITH(parse_quantization(R"({"a": 8})", "f").settings_of("a"), "[f, layer \"a\"] is 8, neither true");
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
