#include "cli_test_support.hpp"

#include <gqmm/system.hpp>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

namespace gqmm::cli {
namespace {

/// Commands of the program. They include one of `gqmm bench` if the program has it.
std::vector<std::string> with_bench(std::vector<std::string> commands, const std::string& bench) {
  if (has_bench) {
    commands.push_back(bench);
  }
  return commands;
}

/// The rows of `inspect` without the column "inferred".
json without_inferred(json tensors) {
  for (json& tensor : tensors) {
    tensor.erase("inferred");
  }
  return tensors;
}

TEST_F(Cli, HelpExplainsEveryCommandWithExamples) {
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "Examples:", run("--help").out);
  for (const std::string command : {"info", "inspect", "check", "quantize"}) {
    const Outcome outcome = run(command + " --help");
    EXPECT_EQ(outcome.status, 0) << command;
    EXPECT_PRED_FORMAT2(::testing::IsSubstring, "gqmm " + command, outcome.out);
    EXPECT_PRED_FORMAT2(::testing::IsSubstring, "Examples:", outcome.out);
  }
}

TEST_F(Cli, VersionIsTheLibrarys) { EXPECT_EQ(run("--version").out, std::string(version()) + "\n"); }

TEST_F(Cli, WrongUsageIsStatusTwoAndOneLineOnStderr) {
  expect_error("", "A subcommand is required; see `gqmm --help`");
  expect_error("frobnicate", "unknown command or option \"frobnicate\"");
  expect_error("inspect", "PATH is required; see `gqmm inspect --help`");
  expect_error("inspect x --format xml", "--format: xml not in {table,json,csv}");
  expect_error("inspect x --frobnicate", "--frobnicate");
  expect_error("check x --samples 0", "--samples: '0' is not a whole number above 0; see `gqmm check --help`");
  expect_error("check x --precision sloppy", "unknown precision \"sloppy\"; use one of \"default\", \"fast\", \"float32\"");
  expect_error("inspect x --mode q4_0", "unknown mode \"q4_0\"");
}

TEST_F(Cli, InfoTellsTheInstructionSetAndTheThreads) {
  const json info = run_json("info", "GQMM_ISA=scalar OMP_NUM_THREADS=1");
  EXPECT_EQ(info["version"], std::string(version()));
  EXPECT_EQ(info["instruction_set"], "scalar");
  EXPECT_EQ(info["instruction_sets"].size(), instruction_sets().size());
  EXPECT_EQ(info["threads"]["OMP_NUM_THREADS"], 1);
  EXPECT_EQ(info["threads"]["available"], 1);
  EXPECT_GE(info["threads"]["affinity"], 1);
  for (const std::string level : {"l1", "l2"}) {
    EXPECT_TRUE(info["cache_kib"][level].is_null() || info["cache_kib"][level] > 0) << level;
  }
  EXPECT_GE(info["memory_nodes"], 1);
  for (const std::string setting : {"transparent", "defrag", "shared_memory"}) {
    EXPECT_TRUE(info["huge_pages"].contains(setting)) << setting;
  }
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "scalar      used", run("info", "GQMM_ISA=scalar").out);
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "threads.affinity,", run("info --format csv").out);
  expect_error("info", "GQMM_ISA = \"mmx\"", "GQMM_ISA=mmx");
}

TEST_F(Cli, InspectListsEveryQuantizedTensorOfTheRealModel) {
  const json found = run_json("inspect " + model_);
  ASSERT_EQ(found["tensors"].size(), 25U);
  const auto tensor = std::find_if(found["tensors"].begin(), found["tensors"].end(),
                                   [](const json& t) { return t["tensor"] == "model.layers.0.mlp.switch_mlp.down_proj"; });
  ASSERT_NE(tensor, found["tensors"].end());
  const json expected = {{"tensor", "model.layers.0.mlp.switch_mlp.down_proj"},
                         {"experts", 32},
                         {"N", 256},
                         {"K", 128},
                         {"bits", 4},
                         {"group_size", 64},
                         {"mode", "affine"},
                         {"scales", "bfloat16"},
                         {"bytes", 32 * 256 * (64 + 2 * 2 * 2)}};
  EXPECT_EQ(*tensor, expected);
}

TEST_F(Cli, InspectAlignsItsTable) {
  const Outcome outcome = run("inspect " + model_);
  const std::size_t first = outcome.out.find('\n');
  const std::size_t second = outcome.out.find('\n', first + 1);
  EXPECT_EQ(first, second - first - 1) << "the last column is of numbers, so its lines end together";
}

TEST_F(Cli, CsvHasAHeaderAndARowPerTensor) {
  const std::string csv = run("inspect --format csv " + model_).out;
  EXPECT_TRUE(csv.starts_with("tensor,experts,N,K,bits,group_size,mode,scales,bytes\r\n")) << csv;
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 26);
}

TEST_F(Cli, CheckPassesOnTheRealModelOnEveryInstructionSetWithTheSameBits) {
  json first;
  for (const InstructionSet& set : instruction_sets()) {
    if (!set.supported) {
      continue;
    }
    json found = run_json("check --samples 100 " + model_, "GQMM_ISA=" + set.name);
    EXPECT_EQ(found["instruction_set"], set.name);
    EXPECT_EQ(found["failed"], 0);
    EXPECT_EQ(found["checks"].size(), 18U);  // nine expert tensors in float32 and bfloat16
    EXPECT_EQ(found["compared"], 1800);
    EXPECT_LE(found["worst_of_bound"], 1.0);
    if (first.is_null()) {
      first = found["checks"];
    }
    EXPECT_EQ(found["checks"], first) << set.name;
  }
}

TEST_F(Cli, CheckAllCoversTheOtherTensorsToo) {
  const json found = run_json("check --all --samples 20 --precision fast " + model_);
  EXPECT_EQ(found["checks"].size(), 50U);
  EXPECT_EQ(found["precision"], "fast");
  EXPECT_EQ(found["failed"], 0);
}

TEST_F(Cli, CheckSaysWhatItComparedAndWhereTheWorstIs) {
  const Outcome outcome = run("check --samples 10 " + model_);
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.err, "") << "no progress bar away from a terminal";
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "180 outputs compared with the reference", outcome.out);
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "all checks passed", outcome.out);
}

TEST_F(Cli, CheckingNothingIsAnErrorNotASuccess) {
  write_float_checkpoint();
  expect_error("check float.safetensors", "there is no quantized tensor to check; `gqmm quantize` makes some");
}

TEST_F(Cli, BrokenFilesAreStatusTwo) {
  expect_error("inspect absent", "[absent] cannot open: No such file or directory");
  const std::string whole(io::MappedFile::open(model_ + "/model.safetensors")->text());
  for (const std::size_t size : {std::size_t{0}, std::size_t{7}, std::size_t{1000}, std::size_t{20000}, whole.size() - 1}) {
    folder_.write("cut.safetensors", std::string_view(whole).substr(0, size));
    expect_error("inspect cut.safetensors", "[cut.safetensors] ");
    expect_error("check cut.safetensors", "[cut.safetensors] ");
    expect_error("quantize cut.safetensors out.safetensors", "[cut.safetensors] ");
  }
  folder_.write("model.safetensors", whole);
  folder_.write("config.json", R"({"quantization": {"bits": 4, "model.embed_tokens": {"bits": 8}}})");
  expect_error("inspect .", "contradict the layer's own settings affine 8-bit");
  folder_.write("config.json", R"({"quantization": )");
  expect_error("inspect .", "config.json] is not valid JSON");
}

TEST_F(Cli, SettingsThatTheShapesContradictAreInferredAndMarked) {
  json config = real_config();
  for (const char* key : {"quantization", "quantization_config"}) {
    for (const char* layer : {"model.layers.0.mlp.gate", "model.layers.1.mlp.gate", "model.layers.2.mlp.gate"}) {
      config[key].erase(layer);
    }
  }
  write_model(config.dump());
  const json expected = without_inferred(run_json("inspect " + model_)["tensors"]);
  const json found = run_json("inspect .");
  EXPECT_EQ(without_inferred(found["tensors"]), expected);
  for (const json& tensor : found["tensors"]) {
    const bool router = tensor["tensor"].get<std::string>().ends_with("mlp.gate");
    EXPECT_EQ(tensor["inferred"], router ? json("bits") : json()) << tensor;
  }
  const std::string table = run("inspect .").out;
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "bytes  inferred\n", table);
  EXPECT_EQ(run_json("check --all --samples 20 .")["failed"], 0);
  EXPECT_EQ(status_of_bench(". --list"), 0);
}

TEST_F(Cli, ConfigsAsPythonAndOtherToolsWriteThemAreRead) {
  const json expected = run_json("inspect " + model_)["tensors"];
  const json settings = real_config()["quantization"];
  const json config = real_config();
  const auto with = [&](const json& changes) {
    json changed = config;
    changed.erase("quantization");
    changed.erase("quantization_config");
    changed.update(changes);
    return changed.dump();
  };
  json floats = settings;
  floats["bits"] = 4.0;
  floats["group_size"] = 64.0;
  json named = settings;
  named["quant_method"] = "mlx";
  const std::string number = config.dump();
  for (const std::string& text : {with({{"quantization", floats}}), with({{"quantization_config", named}}),
                                  with({{"text_config", {{"quantization", settings}}}}),
                                  with({{"quantization", "int4"}, {"quantization_config", settings}}),
                                  "{\"time_step_limit\": [0.0, Infinity], \"a\": [NaN, -Infinity, 1e999], " + number.substr(1),
                                  "{\"torch_dtype\": 1, \"torch_dtype\": 2, " + number.substr(1)}) {
    write_model(text);
    EXPECT_EQ(run_json("inspect .")["tensors"], expected) << text;
  }
}

TEST_F(Cli, AnIndexThatNamesAbsentShardsIsReplacedWithOneLine) {
  const json expected = run_json("inspect " + model_)["tensors"];
  write_model(real_config().dump());
  folder_.write("model.safetensors.index.json", R"({"weight_map": {"a": "model-00001-of-00002.safetensors"}})");
  for (const std::string& command : with_bench({"inspect . --format json", "check . --samples 1"}, "bench . --list")) {
    const Outcome outcome = run(command);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_PRED_FORMAT2(::testing::IsSubstring, "reading model.safetensors instead, as mlx-lm does", outcome.err);
  }
  EXPECT_EQ(json::parse(run("inspect . --format json").out)["tensors"], expected);
}

TEST_F(Cli, WhatIsNoCheckpointOfMlxIsNamedInOneSentence) {
  folder_.write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  io::SafetensorsWriter writer(folder_.path() / "gptq.safetensors", {{"l.qweight", "I32", {2, 2}}, {"l.scales", "F16", {1, 2}}},
                               {}, false);
  const std::vector<std::byte> zeros(16);
  writer.write("l.qweight", zeros);
  writer.write("l.scales", std::span(zeros).first(4));
  writer.commit();
  for (const std::string& command : with_bench({"inspect ", "check "}, "bench ")) {
    expect_error(command + ".", "is a Git LFS pointer, not the file itself; run `git lfs pull`");
    expect_error(command + "mlx-community/Foo-4bit", "download it with `hf download mlx-community/Foo-4bit --local-dir FOLDER`");
    expect_error(command + "gptq.safetensors",
                 "holds weights quantized by GPTQ (tensor \"l.qweight\", I32 (2, 2)); convert it with");
    expect_error(command + "./absent", "[./absent] cannot open: No such file or directory");
  }
}

TEST_F(Cli, CheckReportsScalesThatAreNotFinitePerTensor) {
  std::vector<float> scales(2 * 8 * 2, 1.0F);
  scales[5] = std::nanf("");
  scales[30] = -INFINITY;
  write_affine_experts(2, scales);
  const Outcome outcome = run("check experts.safetensors --samples 10 --format json");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_PRED_FORMAT2(::testing::IsSubstring,
                      "gqmm: l: 2 of 32 scales are NaN or infinite, the first at (0, 2, 1); the checkpoint is", outcome.err);
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  const json found = json::parse(outcome.out);
  for (const json& check : found["checks"]) {
    EXPECT_EQ(check["not_finite"], 2);
    EXPECT_EQ(check["passed"], false);
  }
  write_affine_experts(2, std::vector<float>(2 * 8 * 2, 1.0F));
  EXPECT_EQ(run("check experts.safetensors --samples 10").status, 0);
}

TEST_F(Cli, CheckLooksThroughTheScalesOfTensorsThatItDoesNotMultiply) {
  const std::vector<float> ones(2 * 8 * 2, 1.0F);
  std::vector<float> damaged(8 * 2, 1.0F);
  damaged[3] = INFINITY;
  const std::vector<std::uint32_t> zeros(2 * 8 * 16);
  io::SafetensorsWriter writer(folder_.path() / "model.safetensors",
                               {{"experts.weight", "U32", {2, 8, 16}},
                                {"experts.scales", "F32", {2, 8, 2}},
                                {"experts.biases", "F32", {2, 8, 2}},
                                {"q.weight", "U32", {8, 16}},
                                {"q.scales", "F32", {8, 2}},
                                {"q.biases", "F32", {8, 2}}},
                               {{"quantization", R"({"bits": 4, "group_size": 64})"}}, false);
  writer.write("experts.weight", std::as_bytes(std::span(zeros)));
  writer.write("experts.scales", std::as_bytes(std::span(ones)));
  writer.write("experts.biases", std::as_bytes(std::span(ones)));
  writer.write("q.weight", std::as_bytes(std::span(zeros)).first(8 * 16 * 4));
  writer.write("q.scales", std::as_bytes(std::span(damaged)));
  writer.write("q.biases", std::as_bytes(std::span(ones)).first(8 * 2 * 4));
  writer.commit();
  const Outcome outcome = run("check model.safetensors --samples 10 --format json");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "gqmm: q: 1 of 16 scales are NaN or infinite, the first at (1, 1)", outcome.err);
  const json checks = json::parse(outcome.out)["checks"];
  EXPECT_EQ(checks.back()["tensor"], "q");
  EXPECT_EQ(checks.back()["compared"], 0);
  EXPECT_EQ(checks.back()["passed"], false);
  EXPECT_EQ(checks.front()["passed"], true);
}

TEST_F(Cli, AComparisonOfNothingIsAnError) {
  write_affine_experts(0, {});
  EXPECT_EQ(run_json("inspect experts.safetensors")["tensors"][0]["experts"], 0);
  expect_error("check experts.safetensors", "nothing was compared: none of its 1 quantized tensors has any output");
}

TEST_F(Cli, GlobalScalesAreListedAndUsed) {
  // One group of codes 1.0 (2 in E2M1) with scales 1.0 (0x38 in E4M3): the global scale alone decides the weights.
  const std::vector<std::uint32_t> codes(2 * 16 * 4, 0x22222222);
  const std::vector<std::uint8_t> scales(2 * 16 * 2, 0x38);
  const std::vector<float> global = {2688.0F, 0.0F};
  io::SafetensorsWriter writer(folder_.path() / "experts.safetensors",
                               {{"l.weight", "U32", {2, 16, 4}}, {"l.scales", "U8", {2, 16, 2}}, {"l.global_scale", "F32", {2}}},
                               {{"quantization", R"({"mode": "nvfp4", "bits": 4, "group_size": 16})"}}, false);
  writer.write("l.weight", std::as_bytes(std::span(codes)));
  writer.write("l.scales", std::as_bytes(std::span(scales)));
  writer.write("l.global_scale", std::as_bytes(std::span(global)));
  writer.commit();
  const json tensor = run_json("inspect experts.safetensors")["tensors"][0];
  EXPECT_EQ(tensor["global_scale"], "(2,)");
  EXPECT_EQ(tensor["bytes"], 2 * 16 * (16 + 2) + 8);
  const json found = run_json("check experts.safetensors --samples 100000");
  EXPECT_EQ(found["failed"], 0);
  EXPECT_EQ(status_of_bench("experts.safetensors --top 1 --list"), 0);
}

TEST_F(Cli, OutputThatCannotBeWrittenIsAnError) {
  const Outcome closed = run("info >&-");
  EXPECT_EQ(closed.status, 2);
  EXPECT_EQ(closed.err, "gqmm: cannot write to the standard output\n");
  EXPECT_EQ(run("info >/dev/full").status, 2);
  EXPECT_EQ(run("info 2>&-").status, 0);
}

}  // namespace
}  // namespace gqmm::cli
