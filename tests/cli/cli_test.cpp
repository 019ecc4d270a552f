#include "cli_test_support.hpp"

#include <gqmm/system.hpp>

#include <fstream>

namespace gqmm::cli {
namespace {

TEST_F(Cli, HelpExplainsEveryCommandWithExamples) {
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "Examples:", run("--help").out);
  for (const std::string command : {"info", "inspect", "check", "quantize", "bench"}) {
    const Outcome outcome = run(command + " --help");
    EXPECT_EQ(outcome.status, 0) << command;
    EXPECT_PRED_FORMAT2(::testing::IsSubstring, "gqmm " + command, outcome.out);
    EXPECT_PRED_FORMAT2(::testing::IsSubstring, "Examples:", outcome.out);
  }
}

TEST_F(Cli, BenchComparesSavedFiguresAndFailsWhereACaseIsSlower) {
  const auto save = [&](const std::string& name, const std::string& cpu, double fraction) {
    const auto limit = [&](const char* what) {
      return json{{"limit", what}, {"measured_by", "an instruction"}, {"fraction", {{"median", fraction}}}};
    };
    const json figures = {{"name", "a case"},
                          {"repetitions", 9},
                          {"bound_by", "int8 dot"},
                          {"seconds", {{"median", 1e-3}}},
                          {"memory", limit("DRAM read")},
                          {"arithmetic", limit("int8 dot")}};
    std::ofstream(folder_.path() / name) << json{
        {"gqmm_bench", 1}, {"machine", {{"cpu", cpu}, {"processors", 2}}}, {"cases", {figures}}};
  };
  save("old.json", "Example CPU", 0.40);
  save("new.json", "Example CPU", 0.37);
  save("other.json", "Other CPU", 0.40);
  const Outcome slower = run("bench --compare old.json --measured new.json");
  EXPECT_EQ(slower.status, 1);
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, "1 slower by more than 5 %", slower.out);
  EXPECT_EQ(run("bench --compare old.json --measured new.json --tolerance 10%").status, 0);
  EXPECT_EQ(run("bench --compare new.json --measured old.json").status, 0);
  expect_error("bench --compare other.json --measured new.json", "another machine, Other CPU (2 processors)");
  expect_error("bench --compare missing.json --measured new.json", "missing.json");
  std::ofstream(folder_.path() / "cut.json")
      << R"({"gqmm_bench": 1, "machine": {"cpu": "x", "processors": 2}, "cases": [{"name": "a"}]})";
  expect_error("bench --compare cut.json --measured new.json", "cut.json: case \"a\": nothing where a whole number should be");
  expect_error("bench --compare old.json --measured new.json --tolerance lots", "--tolerance = 'lots' is not a fraction");
}

TEST_F(Cli, VersionIsTheLibrarys) { EXPECT_EQ(run("--version").out, std::string(version()) + "\n"); }

TEST_F(Cli, WrongUsageIsStatusTwoAndOneLineOnStderr) {
  expect_error("", "A subcommand is required; see `gqmm --help`");
  expect_error("frobnicate", "unknown command or option \"frobnicate\"");
  expect_error("inspect", "PATH is required; see `gqmm inspect --help`");
  expect_error("inspect x --format xml", "--format: xml not in {table,json,csv}");
  expect_error("inspect x --frobnicate", "--frobnicate");
  expect_error("check x --samples 0", "--samples: '0' is not a whole number above 0; see `gqmm check --help`");
  expect_error("bench --tokens abc", "--tokens: 'abc' is not a whole number above 0; see `gqmm bench --help`");
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
  EXPECT_TRUE(info["memory_nodes"].is_null() || info["memory_nodes"] >= 1);
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
  folder_.write("config.json", R"({"quantization": {"bits": 8}})");
  expect_error("inspect .", "contradict the settings affine 8-bit");
  folder_.write("config.json", R"({"quantization": )");
  expect_error("inspect .", "config.json] not valid JSON");
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
