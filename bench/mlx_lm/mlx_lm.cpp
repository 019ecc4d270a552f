#include "mlx_lm/mlx_lm.hpp"

#include "measure/measure.hpp"
#include "mlx_lm/mlx_lm_report.hpp"
#include "mlx_lm/turns.hpp"
#include "report/outputs.hpp"
#include "subcommand.hpp"
#include "tools/progress.hpp"
#include "tools/validators.hpp"

#include <fmt/format.h>
#include <gqmm/system.hpp>

#include <algorithm>
#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace gqmm::bench {
namespace {

using Number = std::optional<std::int64_t>;
using Numbers = std::vector<std::int64_t>;

/// The values of the options. What is not given depends on the number of layers.
struct Arguments {
  std::vector<std::string> models;
  std::optional<std::int64_t> layers;
  Number hidden, experts, top, width, heads, kv_heads, head_dim, vocabulary;
  std::optional<Numbers> prompts, decodes, requests;
  std::int64_t requests_after = 512;
  std::vector<std::string> dtypes;
  std::vector<std::string> precisions;
  bool pack = false;
  bool profile_stock = false;
  std::string python = "auto";
  std::string peers = "none";
  Number repetitions, tiny_turns;
  double seconds = 30;
  std::size_t pool_bytes = default_pool_bytes();
  Outputs outputs;

  [[nodiscard]] bool is_whole() const { return layers.value_or(1) > 1; }
};

/// What is measured without further options: of a layer what mlx-lm gains, beside stock MLX; of several layers what a user sees
/// of a model, beside llama.cpp.
struct Defaults {
  std::vector<std::string> models;
  std::int64_t vocabulary;
  Numbers prompts, decodes, requests;
  std::vector<std::string> precisions;
  std::int64_t repetitions, tiny_turns;
};

Defaults defaults_of(const Arguments& arguments) {
  if (!arguments.is_whole()) {
    return {{"qwen3-30b-a3b"}, 256, {64}, {64}, {}, {"default"}, 9, 101};
  }
  return {{"qwen3-30b-a3b", "gpt-oss-20b", "qwen3-4b"},
          32768,
          {64, 512, 2048, 8192},
          {64, 512, 2048, 8192},
          {8},
          {"default", "fast"},
          3,
          0};
}

template <class T>
std::vector<T> given_or(const std::vector<T>& given, const std::vector<T>& otherwise) {
  return given.empty() ? otherwise : given;
}

std::vector<ModelShape> shapes_of(const Arguments& arguments, const Defaults& defaults) {
  std::vector<ModelShape> shapes;
  for (const std::string& name : given_or(arguments.models, defaults.models)) {
    ModelShape shape = model_from_name(name);
    shape.layers = arguments.layers.value_or(shape.layers);
    shape.vocabulary = arguments.vocabulary.value_or(defaults.vocabulary);
    shape.hidden = arguments.hidden.value_or(shape.hidden);
    shape.width = arguments.width.value_or(shape.width);
    shape.heads = arguments.heads.value_or(shape.heads);
    shape.kv_heads = arguments.kv_heads.value_or(shape.kv_heads);
    shape.head_dim = arguments.head_dim.value_or(shape.head_dim);
    if (shape.experts > 0) {
      shape.experts = arguments.experts.value_or(shape.experts);
      shape.top = arguments.top.value_or(shape.top);
    }
    check(shape);
    shapes.push_back(shape);
  }
  return shapes;
}

std::vector<ModelCase> cases_of(const Arguments& arguments, const Defaults& defaults) {
  std::vector<ModelCase> cases;
  for (const std::int64_t tokens : arguments.prompts.value_or(defaults.prompts)) {
    cases.push_back({"prompt", tokens, 1});
  }
  for (const std::int64_t tokens : arguments.decodes.value_or(defaults.decodes)) {
    cases.push_back({"decode", tokens, 1});
  }
  for (const std::int64_t requests : arguments.requests.value_or(defaults.requests)) {
    cases.push_back({"decode", arguments.requests_after, requests});
  }
  return cases;
}

/// Returns the cases whose time is attributed to operations: a prompt of 512 tokens, or the first one, and the first of one
/// token.
std::vector<ModelCase> broken_down_of(const std::vector<ModelCase>& cases) {
  std::vector<ModelCase> result;
  const auto add = [&](auto is_wanted) {
    const auto found = std::find_if(cases.begin(), cases.end(), is_wanted);
    if (found != cases.end()) {
      result.push_back(*found);
    }
    return found != cases.end();
  };
  if (!add([](const ModelCase& each) { return each.job == "prompt" && each.tokens == 512; })) {
    add([](const ModelCase& each) { return each.job == "prompt"; });
  }
  add([](const ModelCase& each) { return each.job == "decode" && each.requests == 1; });
  return result;
}

ModelPlan plan_of(const Arguments& arguments) {
  const Defaults defaults = defaults_of(arguments);
  ModelPlan plan;
  plan.shapes = shapes_of(arguments, defaults);
  plan.cases = cases_of(arguments, defaults);
  plan.broken_down = broken_down_of(plan.cases);
  plan.break_down_stock = arguments.profile_stock;
  plan.dtypes = given_or(arguments.dtypes, arguments.is_whole() ? std::vector<std::string>{"bfloat16", "float32"}
                                                                : std::vector<std::string>{"float32", "bfloat16"});
  plan.python = find_python(arguments.python, "--python");
  if (plan.python.empty()) {
    throw std::invalid_argument(
        "[bench mlx-lm] there is no Python here: neither .venv/bin/python nor an active environment; name one that has mlx-lm "
        "and gqmm with --python");
  }
  plan.peers = find_python(arguments.peers, "--peers");
  plan.sides = model_sides(plan.dtypes, given_or(arguments.precisions, defaults.precisions), arguments.pack, !plan.peers.empty());
  plan.repetitions = static_cast<int>(arguments.repetitions.value_or(defaults.repetitions));
  plan.seconds = arguments.seconds;
  plan.tiny_turns = static_cast<int>(arguments.tiny_turns.value_or(defaults.tiny_turns));
  plan.pool_bytes = arguments.pool_bytes;
  plan.threads = available_threads();
  return plan;
}

void run(const Arguments& arguments) {
  const ModelPlan plan = plan_of(arguments);
  MlxLmReport report = {describe_machine(), command_line(), today(), {}, {}};
  report.machine.library_revision = arguments.outputs.revision;
  const std::string stem = fmt::format("mlx-lm-{}{}", arguments.is_whole() ? "models-" : "", file_name_of(report.machine));
  check_outputs(arguments.outputs, stem);
  report.settings = {{"repetitions", plan.repetitions}, {"seconds", plan.seconds}, {"pack", arguments.pack}};
  tools::ProgressBar bar;
  report.figures = measure_models(plan, [&](double done, const std::string& doing) { bar.show(done, doing); });
  bar.clear();
  write_outputs(arguments.outputs, stem, [&](std::ostream& out, const std::string& format) { write(out, report, format); });
}

void add_shape_options(CLI::App& command, Arguments& arguments) {
  const char* const shape = "Shape";
  const auto number = [&](const char* name, Number& value, const char* text) {
    command.add_option(name, value, text)->check(tools::above_zero<std::int64_t>())->group(shape);
  };
  const auto numbers = [&](const char* name, std::optional<Numbers>& value, const char* text) {
    command.add_option(name, value, text)->delimiter(',')->check(tools::above_zero<std::int64_t>())->group(shape);
  };
  command
      .add_option("--model", arguments.models,
                  "models whose layers are measured: qwen3-30b-a3b, gpt-oss-20b, qwen3-4b, qwen3-next-80b-a3b, "
                  "nemotron-3-nano-30b-a3b")
      ->delimiter(',')
      ->group(shape);
  command
      .add_option("--layers", arguments.layers,
                  "layers of the model (1, 2 of gpt-oss-20b, 4 with linear layers); several make other cases the default")
      ->check(tools::above_zero<std::int64_t>())
      ->group(shape)
      ->capture_default_str();
  numbers("--tokens,--prompts", arguments.prompts, "tokens of prompts (64; of several layers 64,512,2048,8192)");
  numbers("--decode", arguments.decodes, "tokens in the cache while one after another is decoded (the same)");
  numbers("--requests", arguments.requests, "requests that are decoded at once (none; of several layers 8)");
  command.add_option("--requests-after", arguments.requests_after, "tokens in the cache of each request")
      ->check(tools::above_zero<std::int64_t>())
      ->group(shape)
      ->capture_default_str();
  number("--hidden", arguments.hidden, "width of the model");
  number("--experts", arguments.experts, "experts of a layer");
  number("--top", arguments.top, "experts per token");
  number("--width", arguments.width, "width of an expert, or of a dense layer");
  number("--heads", arguments.heads, "heads of attention's queries");
  number("--kv-heads", arguments.kv_heads, "heads of attention's keys and values");
  number("--head-dim", arguments.head_dim, "dimension of a head");
  number("--vocabulary", arguments.vocabulary, "tokens of the embedding and the head (256; of several layers 32768)");
  command.add_option("--dtype", arguments.dtypes, "types of activations, scales and norms: float32, bfloat16, float16")
      ->delimiter(',')
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}))
      ->group(shape);
}

void add_options(CLI::App& command, Arguments& arguments) {
  add_shape_options(command, arguments);
  command.add_option("--precision", arguments.precisions, "precisions of gqmm.mlx (default; of several layers default,fast)")
      ->delimiter(',')
      ->check(CLI::IsMember({"default", "fast", "float32"}))
      ->group("gqmm.mlx");
  command.add_flag("--pack", arguments.pack, "gqmm.mlx packs weights")->group("gqmm.mlx");

  const char* const method = "Method";
  command.add_option("--python", arguments.python, "an interpreter that has mlx-lm and gqmm, or auto")->group(method);
  command.add_option("--peers", arguments.peers, "an interpreter that has llama-cpp-python, auto or none")
      ->group(method)
      ->capture_default_str();
  command.add_option("--seconds", arguments.seconds, "seconds of stock MLX per case; a longer call is not waited for")
      ->check(tools::above_zero<double>())
      ->group(method)
      ->capture_default_str();
  command.add_option("--repetitions", arguments.repetitions, "turns of each side (9; of several layers 3)")
      ->check(tools::above_zero<std::int64_t>())
      ->group(method);
  command.add_option("--tiny-turns", arguments.tiny_turns, "repetitions of tiny calls (101; of several layers 0)")
      ->check(CLI::NonNegativeNumber)
      ->group(method);
  command.add_flag("--profile-stock", arguments.profile_stock, "also measure where stock MLX's time goes")->group(method);
  command
      .add_option_function<std::size_t>(
          "--pool", [&arguments](std::size_t mebibytes) { arguments.pool_bytes = mebibytes << 20; },
          "MiB that the probe of DRAM reads (eight times the last-level cache)")
      ->check(tools::above_zero<int>())
      ->group(method);
  add_output_options(command, arguments.outputs, {"table", "markdown", "json"});
}

}  // namespace

void add_mlx_lm_command(CLI::App& bench) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* command = add_separate_command(
      bench, "mlx-lm", "Layers of a language model through mlx-lm: gqmm.mlx, stock MLX and llama.cpp, by turns");
  add_options(*command, *arguments);
  command->footer(
      R"(The layer is one of Qwen3-30B-A3B unless options say otherwise, 4-bit affine in groups of 64.
docs/dev/benchmarking.md says more.

Examples:
  gqmm bench mlx-lm                                       a layer, float32 and bfloat16, some minutes
  gqmm bench mlx-lm --dtype float32 --seconds 5           less than one
  gqmm bench mlx-lm --layers 8 --peers .venv/bin/python   eight layers of three models beside llama.cpp, an hour
  gqmm bench mlx-lm --model qwen3-next-80b-a3b --prompts 512,2048 --decode 512 --seconds 600
  gqmm bench mlx-lm --layers 8 --model qwen3-4b --prompts 512 --decode 512 --requests 8)");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace gqmm::bench
