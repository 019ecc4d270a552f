#include "scale/scale.hpp"

#include "measure/measure.hpp"
#include "report/outputs.hpp"
#include "scale/scale_figures.hpp"
#include "scale/scale_report.hpp"
#include "subcommand.hpp"
#include "tools/progress.hpp"
#include "tools/validators.hpp"

#include <fmt/format.h>
#include <gqmm/stream.hpp>
#include <gqmm/system.hpp>

#include <algorithm>
#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace gqmm::bench {
namespace {

struct Arguments {
  std::optional<std::int64_t> hidden, experts, top, width;
  std::string dtype = "bfloat16";
  std::vector<std::int64_t> tokens = {1, 8, 64, 256};
  std::vector<int> ranks = {1, 2, 4};
  std::string python = "auto";
  int repetitions = 9;
  double seconds = 0.3;
  std::size_t pool_bytes = default_pool_bytes();
  Outputs outputs;
};

Case layer_of(const Arguments& arguments) {
  Case layer;
  layer.shape = shape_from_name("qwen3-30b-a3b/layer");
  layer.shape.K = arguments.hidden.value_or(layer.shape.K);
  layer.shape.N = arguments.width.value_or(layer.shape.N);
  layer.shape.experts = arguments.experts.value_or(layer.shape.experts);
  layer.shape.top = arguments.top.value_or(layer.shape.top);
  layer.dtype = float_type_from_name(arguments.dtype);
  return layer;
}

void check(const ScalePlan& plan) {
  const LayerShape& shape = plan.layer.shape;
  for (const auto& [option, value] : {std::pair{"--hidden", shape.K}, {"--width", shape.N}}) {
    if (value % plan.layer.group_size != 0) {
      throw std::invalid_argument(
          fmt::format("[bench scale] {} = {} is not a multiple of {}, the quantization's group; round it up", option, value,
                      plan.layer.group_size));
    }
  }
  if (shape.top > shape.experts) {
    throw std::invalid_argument(fmt::format(
        "[bench scale] --top = {} exceeds --experts = {}; a token uses each expert once at most", shape.top, shape.experts));
  }
  const int most_ranks = *std::max_element(plan.ranks.begin(), plan.ranks.end());
  if (most_ranks > shape.experts) {
    throw std::invalid_argument(
        fmt::format("[bench scale] --ranks = {} exceeds --experts = {}; each rank needs one", most_ranks, shape.experts));
  }
}

ScalePlan plan_of(const Arguments& arguments) {
  ScalePlan plan;
  plan.layer = layer_of(arguments);
  plan.tokens = arguments.tokens;
  plan.ranks = arguments.ranks;
  std::sort(plan.ranks.begin(), plan.ranks.end());
  plan.ranks.erase(std::unique(plan.ranks.begin(), plan.ranks.end()), plan.ranks.end());
  plan.repetitions = arguments.repetitions;
  plan.seconds = arguments.seconds;
  plan.pool_bytes = arguments.pool_bytes;
  plan.threads = available_threads();
  check(plan);
  plan.python = find_python(arguments.python, "--python");
  if (plan.python.empty()) {
    throw std::invalid_argument(
        "[bench scale] there is no Python here: neither .venv/bin/python nor an active environment; name one that has mpi4py and "
        "gqmm with --python");
  }
  return plan;
}

nlohmann::ordered_json settings_of(const ScalePlan& plan) {
  const LayerShape& shape = plan.layer.shape;
  return {{"layer", fmt::format("{} experts of width {}, top {}, hidden {}, {}, {}", shape.experts, shape.N, shape.top, shape.K,
                                plan.layer.format_name(), gqmm::name_of(plan.layer.dtype))},
          {"hidden", shape.K},
          {"experts", shape.experts},
          {"top", shape.top},
          {"width", shape.N},
          {"dtype", gqmm::name_of(plan.layer.dtype)},
          {"repetitions", plan.repetitions},
          {"seconds", plan.seconds},
          {"pool_bytes", plan.pool_bytes}};
}

void run(const Arguments& arguments) {
  const ScalePlan plan = plan_of(arguments);
  ScaleReport report = {describe_machine(), command_line(), today(), settings_of(plan), {}};
  report.machine.library_revision = arguments.outputs.revision;
  const std::string stem = fmt::format("scale-{}", file_name_of(report.machine));
  check_outputs(arguments.outputs, stem);
  tools::ProgressBar bar;
  report.figures = measure_scale(plan, [&](double done, const std::string& doing) { bar.show(done, doing); });
  bar.clear();
  write_outputs(arguments.outputs, stem, [&](std::ostream& out, const std::string& format) { write(out, report, format); });
}

void add_options(CLI::App& command, Arguments& arguments) {
  const char* const shape = "Shape";
  const auto number = [&](const char* name, std::optional<std::int64_t>& value, const char* text) {
    command.add_option(name, value, text)->check(tools::above_zero<std::int64_t>())->group(shape);
  };
  number("--hidden", arguments.hidden, "width of the model (2048)");
  number("--experts", arguments.experts, "experts of the layer (128)");
  number("--top", arguments.top, "experts per token (8)");
  number("--width", arguments.width, "width of an expert (768)");
  command.add_option("--dtype", arguments.dtype, "type of x and of results: float16, bfloat16, float32")
      ->check(CLI::IsMember({"float16", "bfloat16", "float32"}))
      ->group(shape)
      ->capture_default_str();
  command.add_option("--tokens", arguments.tokens, "tokens of a call, of all ranks together")
      ->delimiter(',')
      ->check(tools::above_zero<std::int64_t>())
      ->group(shape)
      ->capture_default_str();

  const char* const method = "Method";
  command.add_option("--ranks", arguments.ranks, "numbers of ranks, which share this machine's threads")
      ->delimiter(',')
      ->check(tools::whole_number_to(Stream::max_threads))
      ->group(method)
      ->capture_default_str();
  command.add_option("--python", arguments.python, "an interpreter that has mpi4py, an MPI library and gqmm, or auto")
      ->group(method)
      ->capture_default_str();
  command.add_option("--repetitions", arguments.repetitions, "turns of each number of ranks")
      ->check(tools::above_zero<int>())
      ->group(method)
      ->capture_default_str();
  command.add_option("--seconds", arguments.seconds, "seconds of a turn, which has eight calls at least")
      ->check(tools::above_zero<double>())
      ->group(method)
      ->capture_default_str();
  command
      .add_option_function<std::size_t>(
          "--pool", [&arguments](std::size_t mebibytes) { arguments.pool_bytes = mebibytes << 20; },
          "least MiB of weights of each number of ranks, and MiB that the probe of DRAM reads (eight times the last-level cache)")
      ->check(tools::above_zero<int>())
      ->group(method);
  add_output_options(command, arguments.outputs, {"table", "markdown", "json"});
}

}  // namespace

void add_scale_command(CLI::App& bench) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      add_separate_command(bench, "scale", "A layer whose experts are divided over ranks: time, exchanges and bytes per token");
  add_options(*command, *arguments);
  command->footer(
      R"(The layer is one of Qwen3-30B-A3B unless options say otherwise, 4-bit affine in groups of 64.
Ranks are processes on this machine, which mpiexec starts: `pip install mpi4py mpich` in the environment of --python.
bench/scale_model.py predicts from the figures of --json how nodes of a network would do. docs/dev/benchmarking.md says more.

Examples:
  gqmm bench scale                                        Qwen3-30B-A3B's layer on 1, 2 and 4 ranks, some minutes
  gqmm bench scale --ranks 1,2 --tokens 64 --json f.json  and then: python bench/scale_model.py --measured f.json)");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace gqmm::bench
