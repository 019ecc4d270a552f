// Tests what gqmm quantize makes of each tensor.
#include "quantize_test_support.hpp"

#include "formats/registry.hpp"

namespace gqmm::cli {

using namespace detail;

namespace {

TEST_F(Cli, QuantizeWritesWhatInspectAndCheckRead) {
  write_float_checkpoint();
  for (const Format& format : formats()) {
    const std::string mode(format.mode_name);
    const int bits = format.bits;
    const int group_size = format.group_sizes.back();
    const Outcome outcome = run("quantize float.safetensors out.safetensors --force --mode " + mode + " --bits " +
                                std::to_string(bits) + " --group-size " + std::to_string(group_size));
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json found = run_json("inspect out.safetensors");
    ASSERT_EQ(found["tensors"].size(), 2U);
    EXPECT_EQ(found["tensors"][0]["tensor"], "bare");
    EXPECT_EQ(found["tensors"][0]["K"], 256);
    EXPECT_EQ(found["tensors"][1]["tensor"], "experts");
    EXPECT_EQ(found["tensors"][1]["experts"], 3);
    for (const json& tensor : found["tensors"]) {
      EXPECT_EQ(tensor["mode"], mode);
      EXPECT_EQ(tensor["bits"], bits);
      EXPECT_EQ(tensor["group_size"], group_size);
    }
    EXPECT_EQ(run_json("check out.safetensors --all --samples 50")["failed"], 0);
  }
}

TEST_F(Cli, QuantizeSaysWhatItDidInEveryFormat) {
  write_float_checkpoint();
  const json found = run_json("quantize float.safetensors out.safetensors --bits 8");
  EXPECT_EQ(found["mode"], "affine");
  EXPECT_EQ(found["bits"], 8);
  EXPECT_EQ(found["quantized"], 2);
  EXPECT_EQ(found["copied"], 3);
  EXPECT_EQ(found["bytes_after"], std::filesystem::file_size(folder_.path() / "out.safetensors"));
  const Outcome csv = run("quantize float.safetensors out.safetensors --force --format csv");
  EXPECT_TRUE(csv.out.starts_with("path,mode,bits,group_size,quantized,copied,bytes_before,bytes_after")) << csv.out;
  expect_error("quantize out.safetensors again.safetensors --group-size 128", "is quantized already; give the float checkpoint");
}

TEST_F(Cli, QuantizeRefusesAFileWithNothingToQuantize) {
  io::SafetensorsWriter writer(folder_.path() / "narrow.safetensors", {{"l.weight", "F32", {2, 8}}}, {}, false);
  const std::vector<float> values(16);
  writer.write("l.weight", std::as_bytes(std::span(values)));
  writer.commit();
  expect_error("quantize narrow.safetensors out.safetensors", "there is nothing to quantize");
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "out.safetensors"));
}

TEST_F(Cli, QuantizeCopiesEverythingElse) {
  write_float_checkpoint();
  ASSERT_EQ(run("quantize float.safetensors out.safetensors").status, 0);
  const auto before = io::open_safetensors(folder_.path() / "float.safetensors");
  const auto after = io::open_safetensors(folder_.path() / "out.safetensors");
  EXPECT_EQ(after.metadata.at("note"), "kept");
  EXPECT_EQ(after.tensors.size(), 3U + 3U + 3U);
  for (const char* name : {"odd.weight", "norm.weight", "ids"}) {
    const io::Tensor& a = before.tensors.at(name);
    const io::Tensor& b = after.tensors.at(name);
    EXPECT_EQ(a.type, b.type);
    EXPECT_EQ(a.shape, b.shape);
    EXPECT_TRUE(std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end())) << name;
  }
}

TEST_F(Cli, QuantizeReplacesAFileOnlyWithForceEvenIfItIsItsInput) {
  write_float_checkpoint();
  folder_.write("out.safetensors", "precious");
  expect_error("quantize float.safetensors out.safetensors", "exists already; --force replaces it");
  EXPECT_EQ(io::MappedFile::open(folder_.path() / "out.safetensors")->text(), "precious");
  EXPECT_EQ(run("quantize float.safetensors float.safetensors --force").status, 0);
  EXPECT_EQ(run_json("inspect float.safetensors")["tensors"].size(), 2U);
}

TEST_F(Cli, QuantizeLeavesNothingBehindWhenItFails) {
  io::SafetensorsWriter writer(folder_.path() / "nan.safetensors", {{"l.weight", "F32", {1, 32}}}, {}, false);
  const std::vector<float> values(32, std::nanf(""));
  writer.write("l.weight", std::as_bytes(std::span(values)));
  writer.commit();
  expect_error("quantize nan.safetensors out.safetensors --mode mxfp4", "\"l.weight\": [quantize]");
  expect_error("quantize nan.safetensors out.safetensors --group-size 32",
               "\"l.weight\": [quantize] there are NaN or Inf among the weights");
  expect_error("quantize nan.safetensors out.safetensors --bits 7", "bits = 7 is not available");
  expect_error("quantize nan.safetensors absent/out.safetensors --group-size 32", "cannot create a file in its folder");
  expect_error("quantize " + model_ + " out.safetensors", "is quantized already; give the float checkpoint");
  std::vector<std::string> left;
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
    left.push_back(entry.path().filename());
  }
  std::sort(left.begin(), left.end());
  EXPECT_EQ(left, (std::vector<std::string>{"nan.safetensors", "stderr", "stdout"}));
}

constexpr const char* four_bits = "affine 4-bit, group_size 64";

TEST_F(QuantizeCli, LeavesWhatIsNoMatrixOfALayer) {
  write_float_model("in", R"({"model_type": "unknown"})",
                    {{"model.embed_tokens.weight", {32, 64}},
                     {"model.layers.0.mlp.experts.up_proj.weight", {4, 16, 64}},
                     {"model.layers.0.mlp.experts.up_proj.bias", {4, 64}},
                     {"model.layers.0.mlp.experts.gate_up_bias", {4, 64}},
                     {"model.layers.0.mlp.router.weight", {4, 64}},
                     {"model.layers.0.mlp.gate.weight", {4, 64}},
                     {"model.layers.0.mlp.shared_expert_gate.weight", {1, 64}},
                     {"model.layers.0.mlp.gate_proj.weight", {64, 64}},
                     {"model.layers.0.self_attn.q_norm.weight", {4, 64}},
                     {"model.layers.0.self_attn.sinks", {64}},
                     {"model.layers.0.ln_1.weight", {2, 64}},
                     {"model.layers.0.conv.conv.weight", {64, 4, 64}},
                     {"model.layers.0.conv.in_proj.weight", {64, 64}},
                     {"model.layers.0.mixer.conv1d.weight", {64, 4, 64}},
                     {"model.layers.0.mixer.A_log", {64, 64}},
                     {"model.layers.0.stem.weight", {64, 3, 64}},
                     {"model.layers.0.patches.weight", {64, 16, 16, 64}},
                     {"model.wpe.weight", {128, 64}},
                     {"model.embed_positions.weight", {128, 64}},
                     {"model.pos_embed", {128, 64}},
                     {"model.abs_pos_embed.weight", {128, 64}},
                     {"model.rel_pos.weight", {128, 64}},
                     {"model.pe.weight", {128, 64}},
                     {"model.relative_attention_bias.weight", {32, 64}},
                     {"model.composition.weight", {64, 64}},
                     {"model.pose.weight", {64, 64}},
                     {"model.half.weight", {64, 100}},
                     {"model.ids.position_ids", {2, 64}, "I64"}});
  std::map<std::string, std::string> plan = plan_of("in");
  for (const char* quantized :
       {"model.embed_tokens.weight", "model.layers.0.mlp.experts.up_proj.weight", "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.conv.in_proj.weight", "model.composition.weight", "model.pose.weight"}) {
    EXPECT_EQ(plan[quantized], four_bits) << quantized;
    plan.erase(quantized);
  }
  for (const auto& [name, to] : plan) {
    EXPECT_TRUE(to == "F32" || to == "I64") << name << " becomes " << to;
  }
  ASSERT_EQ(run("quantize in out").status, 0);
  const auto before = io::open_safetensors(folder_.path() / "in/model.safetensors");
  const auto after = io::open_safetensors(folder_.path() / "out/model.safetensors");
  EXPECT_EQ(after.tensors.size(), before.tensors.size() + 2 * 6);
  for (const auto& [name, to] : plan) {
    const io::Tensor& a = before.tensors.at(name);
    const io::Tensor& b = after.tensors.at(name);
    EXPECT_TRUE(a.shape == b.shape && std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end())) << name;
  }
}

TEST_F(QuantizeCli, DryRunPrintsEveryTensorAndWritesNothing) {
  write_float_model("in");
  const auto before = names();
  const json found = run_json("quantize in out --dry-run --bits 3");
  ASSERT_EQ(found["tensors"].size(), 6U);
  EXPECT_EQ(found["tensors"][1], (json{{"name", "model.embed_tokens.weight"},
                                       {"shape", {32, 64}},
                                       {"from", "F32"},
                                       {"to", "affine 3-bit, group_size 64"},
                                       {"bytes", 32 * (64 * 3 / 8 + 2 * 4)},
                                       {"why", nullptr}}));
  EXPECT_EQ(found["tensors"][0]["why"], "tied to the embedding");
  EXPECT_EQ(found["tensors"][3]["to"], "affine 8-bit, group_size 64") << "the router, as mlx-lm has it";
  std::uint64_t bytes = 0;
  for (const json& tensor : found["tensors"]) {
    bytes += tensor["bytes"].get<std::uint64_t>();
  }
  EXPECT_EQ(found["bytes_after"], bytes);
  EXPECT_TRUE(run("quantize --dry-run in --format csv").out.starts_with("name,shape,from,to,bytes,why\r\n"));
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "4 tensors would be quantized and 2 copied", run("quantize in --dry-run").out);
  EXPECT_EQ(names(), before);
  expect_error("quantize in", "OUT is required");
}

TEST_F(QuantizeCli, GlobsSelectTensorsByNameAndExcludeWins) {
  write_float_model("in");
  using Names = std::vector<std::string>;
  const auto quantized = [&](const std::string& arguments) {
    Names names;
    for (const auto& [name, to] : plan_of("in " + arguments)) {
      if (to != "F32") {
        names.push_back(name);
      }
    }
    return names;
  };
  const std::string gate = "model.layers.0.mlp.gate.weight";
  const std::string up = "model.layers.0.mlp.switch_mlp.up_proj.weight";
  const std::string q = "model.layers.0.self_attn.q_proj.weight";
  const std::string embedding = "model.embed_tokens.weight";
  EXPECT_EQ(quantized(""), (Names{embedding, gate, up, q}));
  EXPECT_EQ(quantized("--exclude '*switch_mlp*' --exclude model.embed_tokens"), (Names{gate, q}));
  EXPECT_EQ(quantized("--include '*switch_mlp*'"), (Names{up}));
  EXPECT_EQ(quantized("--include '*.layers.0.*' --include '*embed*' --exclude '*.mlp.*'"), (Names{embedding, q}));
  EXPECT_EQ(quantized("--exclude '*switch_mlp*' --include '*switch_mlp*' --include '*q_proj'"), (Names{q}));
  expect_error("quantize in out --include '*mpl*'", "--include \"*mpl*\" matches no tensor");
  expect_error("quantize in out --exclude nothing", "--exclude \"nothing\" matches no tensor");
  expect_error("quantize in out --include '*layernorm*'", "matches only tensors that cannot be quantized");
  expect_error("quantize in out --include lm_head", "for example \"lm_head.weight\" (tied to the embedding)");
  expect_error("quantize in out --include '*q_proj' --exclude '*q_proj'", "there is nothing to quantize");
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "out"));
}

TEST_F(QuantizeCli, AGlobThatMatchesOnlyWhatTheRulesLeaveTakesItAllTheSame) {
  write_float_model("in", "{}",
                    {{"wpe.weight", {128, 64}}, {"l.weight", {64, 64}}, {"l.bias", {64, 64}}, {"m.matrix", {64, 64}}});
  EXPECT_EQ(plan_of("in --include '*wpe*' --include 'm.*' --include l.weight"),
            (std::map<std::string, std::string>{
                {"wpe.weight", four_bits}, {"m.matrix", four_bits}, {"l.weight", four_bits}, {"l.bias", "F32"}}));
  EXPECT_EQ(plan_of("in --per-tensor wpe=8:64").at("wpe.weight"), "affine 8-bit, group_size 64");
  expect_error("quantize in out --include l.bias", "for example \"l.bias\" (a bias)");
}

TEST_F(QuantizeCli, SettingsOfATensorAreThoseOfItsLastMatch) {
  write_float_model("in");
  const auto plan = plan_of("in --mode mxfp4 --per-tensor '*proj=8:32:mxfp8' --per-tensor '*q_proj.weight=6'");
  EXPECT_EQ(plan.at("model.layers.0.mlp.switch_mlp.up_proj.weight"), "mxfp8, group_size 32");
  EXPECT_EQ(plan.at("model.layers.0.self_attn.q_proj.weight"), "affine 6-bit, group_size 64");
  EXPECT_EQ(plan.at("model.layers.0.mlp.gate.weight"), "affine 8-bit, group_size 64");
}

TEST_F(QuantizeCli, WrongSettingsOfATensorAreErrors) {
  write_float_model("in");
  const auto expect = [&](const std::string& setting, const std::string& message) {
    expect_error("quantize in out --per-tensor '" + setting + "'", message);
  };
  expect("*q_proj", "has no GLOB before \"=\"; write GLOB=BITS[:GROUP[:MODE]]");
  expect("=4", "has no GLOB");
  expect("*q_proj=four", "BITS is \"four\", not a number");
  expect("*q_proj=", "BITS is \"\", not a number");
  expect("*q_proj=4:", "GROUP is \"\", not a number");
  expect("*q_proj=4:64:affine:1", "more than three settings");
  expect("*q_proj=7", "bits = 7 is not available in mode \"affine\"");
  expect("*q_proj=4:48", "group_size = 48 is not available");
  expect("*q_proj=4:64:q4_0", "unknown mode \"q4_0\"");
  expect("*q_porj=8", "--per-tensor \"*q_porj\" matches no tensor");
  expect("*q_proj=8:128", "K = 64 is not a multiple of group_size = 128, which --per-tensor asks for");
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "out"));
}

TEST_F(QuantizeCli, ASingleFileKeepsTheSettingsOfEveryTensor) {
  write_float_model("in");
  ASSERT_EQ(run("quantize in out.safetensors --per-tensor '*up_proj=8:32'").status, 0);
  std::map<std::string, int> bits;
  const json found = run_json("inspect out.safetensors");
  for (const json& tensor : found["tensors"]) {
    bits[tensor["tensor"]] = tensor["bits"];
  }
  EXPECT_EQ(bits, (std::map<std::string, int>{{"model.embed_tokens", 4},
                                              {"model.layers.0.mlp.gate", 8},
                                              {"model.layers.0.mlp.switch_mlp.up_proj", 8},
                                              {"model.layers.0.self_attn.q_proj", 4}}));
  EXPECT_EQ(run_json("check out.safetensors --all --samples 50")["failed"], 0);
}

TEST_F(QuantizeCli, RefusesAModelOfWhichAPartIsMissing) {
  write_float_model("in");
  const auto model = folder_.path() / "in";
  folder_.write("in/model.safetensors.index.json", R"({"weight_map": {"another.weight": "absent.safetensors"}})");
  EXPECT_EQ(run("quantize in --dry-run").status, 0) << "an index of another model";
  json weight_map;
  for (const FloatTensor& tensor : model_tensors()) {
    weight_map[tensor.name] = "model.safetensors";
  }
  weight_map["model.norm.weight"] = "absent.safetensors";
  folder_.write("in/model.safetensors.index.json", json{{"weight_map", weight_map}}.dump());
  EXPECT_EQ(run("quantize in out").status, 2);
  EXPECT_PRED_FORMAT2(::testing::IsSubstring,
                      "has no tensor \"model.norm.weight\", which its index has in \"absent.safetensors\"",
                      run("quantize in out").err);
  std::filesystem::remove(model / "model.safetensors.index.json");
  std::filesystem::rename(model / "model.safetensors", model / "model-00002-of-00003.safetensors");
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "has no file 1 of the 3 of \"model-of-00003.safetensors\"; complete the download",
                      run("quantize in out").err);
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "out"));
}

TEST_F(QuantizeCli, TheNumberOfExpertsMustBeThatOfConfig) {
  const std::vector<FloatTensor> tensors = {{"model.layers.0.mlp.experts.0.up_proj.weight", {64, 64}},
                                            {"model.layers.0.mlp.experts.1.up_proj.weight", {64, 64}}};
  write_float_model("in", R"({"model_type": "qwen3_moe", "num_experts": 2.0})", tensors);
  EXPECT_EQ(plan_of("in").begin()->first, "model.layers.0.mlp.switch_mlp.up_proj.weight");
  folder_.write("in/config.json", R"({"model_type": "qwen3_moe", "num_experts": 3})");
  expect_error("quantize in out", "has 2 experts where config.json has 3; complete the checkpoint");
  folder_.write("in/config.json", R"({"model_type": "qwen3_moe"})");
  expect_error("quantize in out", "config.json has no num_experts to compare it with; complete config.json");
}

TEST_F(QuantizeCli, RefusesEveryOtherSchemeByItsName) {
  struct RefusedModel {
    std::string scheme;
    std::vector<FloatTensor> tensors;
    std::string config = "{}";
  };
  const FloatTensor norm = {"model.norm.weight", {64}};
  for (const auto& [scheme, tensors, config] : {
           RefusedModel{"AWQ", {{"l.qweight", {64, 8}, "I32"}, {"l.qzeros", {1, 8}, "I32"}, {"l.scales", {1, 64}, "F16"}, norm}},
           {"GPTQ",
            {{"l.qweight", {8, 64}, "I32"}, {"l.qzeros", {1, 8}, "I32"}, {"l.scales", {1, 64}, "F16"}, {"l.g_idx", {64}, "I32"}}},
           {"compressed-tensors",
            {{"l.weight_packed", {64, 8}, "I32"}, {"l.weight_scale", {64, 64}, "BF16"}, {"l.weight_shape", {2}, "I64"}}},
           {"fp8", {{"l.weight", {64, 64}, "F8_E4M3"}, {"l.weight_scale_inv", {64, 64}}}},
           {"bitsandbytes", {{"l.weight", {2048, 1}, "U8"}, {"l.weight.absmax", {64, 64}}, {"l.weight.quant_map", {16}}}},
           {"gpt-oss mxfp4",
            {{"m.experts.down_proj_blocks", {2, 64, 2, 16}, "U8"}, {"m.experts.down_proj_scales", {2, 64, 2}, "U8"}}},
           {"MLX", {{"l.weight", {64, 8}, "U32"}, {"l.scales", {64, 1}}, {"l.biases", {64, 1}}}},
           {"an unknown scheme", {{"l.weight", {64, 64}, "I8"}, {"l.magnitude", {64, 64}}}},
           {"an unknown scheme", {{"l.words", {64, 8}, "I32"}, {"l.row_scales", {64, 64}}, {"m.weight", {64, 64}}}},
           {"AQLM", {{"l.packed", {64, 64}, "U8"}, norm}, R"({"quantization_config": {"quant_method": "aqlm"}})"},
       }) {
    std::filesystem::remove_all(folder_.path() / "in");
    write_float_model("in", config, tensors);
    for (const char* out : {"out", "out.safetensors", "--dry-run"}) {
      expect_error(std::string("quantize in ") + out, scheme);
    }
    expect_error("quantize in out", "quantized already");
  }
  EXPECT_EQ(names(), (std::vector<std::string>{"in", "in/config.json", "in/model.safetensors", "in/tokenizer.json"}));
}

TEST_F(QuantizeCli, RefusesAFileOfOneQuantizedLayer) {
  struct RefusedLayer {
    const char* scheme;
    std::vector<FloatTensor> tensors;
  };
  for (const auto& [scheme, tensors] : {
           RefusedLayer{"AWQ", {{"qweight", {64, 8}, "I32"}, {"qzeros", {1, 8}, "I32"}, {"scales", {1, 64}, "F16"}}},
           {"compressed-tensors", {{"weight_packed", {64, 8}, "I32"}, {"weight_scale", {64, 64}, "BF16"}}},
           {"MLX", {{"weight", {64, 64}, "U32"}, {"scales", {64, 64}}, {"biases", {64, 64}}}},
           {"gqmm's PackedWeights.save", {{"codes", {4, 4, 16, 16}, "U32"}, {"scales", {4, 64}}, {"biases", {4, 64}}}},
           {"an unknown scheme", {{"words", {64, 8}, "U8"}, {"weight_scale", {64, 64}}}},
       }) {
    write_tensors("in.safetensors", tensors);
    expect_error("quantize in.safetensors out.safetensors", scheme);
    expect_error("quantize in.safetensors out.safetensors", "quantized already");
  }
  write_tensors("in.safetensors", {{"positions", {2, 64}, "I64"}, {"logit_scale", {1}}, {"projection", {64, 64}}});
  EXPECT_EQ(run("quantize in.safetensors out.safetensors").status, 0) << "positions are no weights";
}

}  // namespace
}  // namespace gqmm::cli
