#include "bench.hpp"
#include "cases/plan.hpp"
#include "cpu/instruction_set_names.hpp"
#include "formats/registry.hpp"
#include "formats/texts.hpp"
#include "io/checkpoint.hpp"
#include "measure/measure.hpp"
#include "mlx_lm/mlx_lm.hpp"
#include "report/compare.hpp"
#include "report/explain.hpp"
#include "report/origin.hpp"
#include "report/outputs.hpp"
#include "report/report.hpp"
#include "scale/scale.hpp"
#include "tools/progress.hpp"
#include "tools/validators.hpp"

#include <fmt/format.h>
#include <gqmm/stream.hpp>
#include <gqmm/system.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <stdexcept>

namespace gqmm::bench {
namespace {

namespace fs = std::filesystem;

/// The values of the command line's options.
struct CommandArguments {
  std::vector<std::string> what;
  std::string suite;
  std::vector<std::string> only;
  bool list = false;
  bool explain = false;
  std::int64_t experts = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t top = 0;
  std::vector<std::int64_t> tokens = {1, 8, 64, 512};
  std::optional<std::string> mode;
  std::optional<int> bits;
  std::optional<int> group_size;
  bool not_transposed = false;
  std::vector<std::string> dtypes = {"bfloat16"};
  std::vector<std::string> precisions = {"default"};
  bool packed = false;
  std::vector<std::string> routings = {"uniform"};
  std::vector<int> threads;
  std::vector<std::string> isas;
  std::string peers = "auto";
  std::vector<std::string> with = {"gqmm", "mlx", "torch", "ggml"};
  Outputs outputs;
  std::string pages = "default";
  std::string unsteady = "10%";
  std::string compare;
  std::string tolerance = "5%";
  std::string measured;
  MeasureOptions measure;
};

template <class T>
std::vector<T> converted(const std::vector<std::string>& names, T (*convert)(std::string_view)) {
  std::vector<T> values;
  for (const std::string& name : names) {
    values.push_back(convert(name));
  }
  return values;
}

/// Lists a checkpoint's layers. Throws std::invalid_argument for options that would change their formats.
std::vector<CheckpointLayer> unchanged_layers(const std::string& path, const CommandArguments& arguments) {
  std::vector<CheckpointLayer> layers = layers_of_checkpoint(path, arguments.top);
  if (arguments.mode || arguments.bits || arguments.group_size) {
    const CheckpointLayer& first = layers.front();
    throw std::invalid_argument(
        fmt::format("[bench] --mode, --bits and --group-size are for shapes; {} decides them itself ({} {}-bit in groups of {}): "
                    "leave them out",
                    path, gqmm::name_of(first.mode), first.bits, first.group_size));
  }
  return layers;
}

/// Whether an argument is a checkpoint and not the name of a shape. It is one if it exists, or if it can only be a path.
bool names_checkpoint(const std::string& what) {
  return fs::exists(what) || what.starts_with('/') || what.starts_with('.') || what.ends_with(".safetensors");
}

/// Returns the shape of this name. Throws std::invalid_argument for an unknown name. If it may be the name of a model on the
/// Hugging Face hub, the text says how to get that.
const LayerShape& shape_named(const std::string& what) {
  try {
    return shape_from_name(what);
  } catch (const std::invalid_argument& error) {
    const std::string remedy = io::hub_remedy(what);
    throw std::invalid_argument(error.what() + (remedy.empty() ? "" : "; " + remedy));
  }
}

/// Lists the layers of the positional arguments, or the layer of --experts, --n, --k and --top.
std::vector<CheckpointLayer> layers_of(const CommandArguments& arguments) {
  const Mode mode = mode_from_name(arguments.mode.value_or("affine"), "bench");
  const detail::QuantizationSettings settings = detail::resolve_settings(
      "bench", mode, arguments.bits ? &*arguments.bits : nullptr, arguments.group_size ? &*arguments.group_size : nullptr);
  const auto layer = [&](const LayerShape& shape) {
    return CheckpointLayer{shape, mode, settings.format->bits, settings.group_size};
  };
  if (arguments.experts > 0) {
    if (!arguments.what.empty() || arguments.n <= 0 || arguments.k <= 0) {
      throw std::invalid_argument(
          fmt::format("[bench] --experts = {} needs --n and --k beside it, and no shape or checkpoint", arguments.experts));
    }
    const std::int64_t top = arguments.top > 0 ? arguments.top : std::min<std::int64_t>(arguments.experts, 8);
    if (top > arguments.experts) {
      throw std::invalid_argument(fmt::format("[bench] --top = {} exceeds --experts = {}; a token uses each expert once at most",
                                              top, arguments.experts));
    }
    return {layer({"custom", arguments.experts, arguments.n, arguments.k, top, false})};
  }
  if (arguments.n > 0 || arguments.k > 0) {
    throw std::invalid_argument(
        "[bench] --n and --k make a shape together with --experts; a named shape or a checkpoint has its own");
  }
  if (arguments.top > 0 && std::none_of(arguments.what.begin(), arguments.what.end(), names_checkpoint)) {
    throw std::invalid_argument("[bench] --top goes with --experts or with a checkpoint; a named shape has its own");
  }
  if (arguments.what.empty()) {
    return {layer(shape_from_name("qwen3-30b-a3b/gate"))};
  }
  std::vector<CheckpointLayer> layers;
  for (const std::string& what : arguments.what) {
    if (names_checkpoint(what)) {
      const auto found = unchanged_layers(what, arguments);
      layers.insert(layers.end(), found.begin(), found.end());
    } else {
      layers.push_back(layer(shape_named(what)));
    }
  }
  return layers;
}

std::vector<PlannedCase> grid_cases(const CommandArguments& arguments, const std::vector<std::string>& isas) {
  CaseGrid grid;
  grid.layers = layers_of(arguments);
  grid.tokens = arguments.tokens;
  grid.dtypes = converted(arguments.dtypes, float_type_from_name);
  grid.precisions =
      converted<Precision>(arguments.precisions, [](std::string_view name) { return precision_from_name(name, "bench"); });
  grid.threads = arguments.threads.empty() ? std::vector<int>{available_threads()} : arguments.threads;
  grid.isas = isas;
  grid.transpose = !arguments.not_transposed;
  grid.packed = arguments.packed;
  grid.routings = converted(arguments.routings, expert_choice_from_name);
  std::vector<PlannedCase> planned;
  for (const Case& settings : cases_of(grid)) {
    planned.push_back({settings, arguments.with});
  }
  return planned;
}

std::vector<PlannedCase> plan(const CommandArguments& arguments) {
  std::vector<std::string> isas;
  for (const std::string& isa : arguments.isas) {
    isas.emplace_back(cpu::current_name(isa));
  }
  if (isas.empty()) {
    isas.emplace_back(active_instruction_set());
  }
  const std::vector<PlannedCase> cases = arguments.suite.empty()
                                             ? grid_cases(arguments, isas)
                                             : suite(arguments.suite, {isas, arguments.threads, available_threads()});
  return only(cases, arguments.only);
}

Report measure(const CommandArguments& arguments, const std::vector<PlannedCase>& planned) {
  const std::string isa(active_instruction_set());
  Runner runner(arguments.measure, {find_python(arguments.peers, "--peers")});
  Report report = {describe_machine(), arguments.suite, command_line(), today(), arguments.measure, {}};
  report.machine.library_revision = arguments.outputs.revision;
  tools::ProgressBar bar;
  for (std::size_t i = 0; i < planned.size(); ++i) {
    const auto& [settings, peers] = planned[i];
    const auto show = [&, index = static_cast<double>(i)](const RepetitionCount& count) {
      bar.show((index + count.done()) / static_cast<double>(planned.size()), count.note() + settings.name());
    };
    report.cases.push_back(runner.run(settings, peers, show));
  }
  bar.clear();
  set_instruction_set(isa);
  return report;
}

/// Returns the name of the files of --results, without their extensions.
std::string stem_of(const CommandArguments& arguments) {
  return fmt::format("{}-{}", arguments.suite.empty() ? "cases" : arguments.suite, file_name_of(describe_machine()));
}

nlohmann::json figures_of(const Report& report) {
  std::stringstream text;
  write(text, report, "json");
  return nlohmann::json::parse(text);
}

/// Prints the comparison. Returns the exit status: 1 if a case has become slower, else 0.
int compare_with_saved(const CommandArguments& arguments, const nlohmann::json& before, const nlohmann::json& now) {
  const Comparison comparison = compare(before, now, fraction_from_text(arguments.tolerance, "--tolerance"));
  // In a format for programs, the standard output must contain nothing else. The comparison then goes to the standard error.
  const bool for_readers =
      !arguments.measured.empty() || arguments.outputs.format == "table" || arguments.outputs.format == "markdown";
  write_comparison(for_readers ? std::cout : std::cerr, comparison, arguments.outputs.format == "markdown");
  if (comparison.count(Verdict::not_compared) == static_cast<int>(comparison.cases.size())) {
    throw std::invalid_argument("[bench] no case could be compared with the saved figures; the lines above say why");
  }
  return comparison.count(Verdict::slower) > 0 ? 1 : 0;
}

int run(CommandArguments arguments) {
  arguments.measure.pages = pages_from_name(arguments.pages);
  arguments.measure.unsteady = fraction_from_text(arguments.unsteady, "--unsteady");
  fraction_from_text(arguments.tolerance, "--tolerance");
  const nlohmann::json before = arguments.compare.empty() ? nlohmann::json() : read_figures(arguments.compare);
  if (!arguments.measured.empty()) {
    return compare_with_saved(arguments, before, read_figures(arguments.measured));
  }
  const std::vector<PlannedCase> planned = plan(arguments);
  if (arguments.list) {
    for (const PlannedCase& each : planned) {
      std::cout << each.settings.name() << '\n';
    }
    return 0;
  }
  if (arguments.explain) {
    explain(std::cout, planned, arguments.outputs.format);
    return 0;
  }
  if (!arguments.compare.empty()) {  // an error is better now than after the measurements
    check_comparable(before, figures_of({describe_machine(), {}, {}, {}, arguments.measure, {}}));
  }
  check_outputs(arguments.outputs, stem_of(arguments));
  const Report report = measure(arguments, planned);
  write_outputs(arguments.outputs, stem_of(arguments),
                [&](std::ostream& out, const std::string& format) { write(out, report, format); });
  return arguments.compare.empty() ? 0 : compare_with_saved(arguments, before, figures_of(report));
}

std::string known_shape_list() {
  const auto lines = [](std::span<const LayerShape> shapes) {
    std::string text;
    for (const LayerShape& shape : shapes) {
      const std::string shared = shape.shared_experts > 0 ? fmt::format(", {} shared", shape.shared_experts) : "";
      text += fmt::format("  {:20} E {:3}, N {:5}, K {:4}, top {}{}\n", shape.name, shape.experts, shape.N, shape.K, shape.top,
                          shared);
    }
    return text;
  };
  const std::string text = "Shapes (E experts, N outputs, K inputs):\n" + lines(known_shapes()) +
                           "Whole layers (gate and up have N outputs and K inputs, and a call is moe_ffn):\n" +
                           lines(known_layers());
  return text + R"(
Examples:
  gqmm bench                                           Qwen3-30B-A3B's gate projection at 1, 8, 64, 512 tokens
  gqmm bench gpt-oss-20b --mode mxfp4 --tokens 1,32    another shape and format
  gqmm bench path/to/model --dtype float32 --threads 1 the expert layers of a checkpoint
  gqmm bench --tokens 512 --routing uniform half       what it costs that one expert gets half of all rows
  gqmm bench --experts 64 --n 1408 --k 2048 --top 6    a shape without a name
  gqmm bench qwen3-30b-a3b/layer --tokens 1,512        a whole expert layer
  gqmm bench --suite report --results bench/results    the figures of the documentation
  gqmm bench --suite limits --threads 1 --only packed  what the kernels reach of the machine, 1 to 128 rows per expert
  gqmm bench --suite small --json old.json             … and after a change: exit status 1 if a case is slower by more than 5 %
  gqmm bench --suite small --compare old.json --tolerance 5%
  gqmm bench mlx-lm                                    a language model's layer through mlx-lm, stock MLX and gqmm.mlx
  gqmm bench scale                                     a layer whose experts are divided over 1, 2 and 4 ranks
)";
}

void add_shape_options(CLI::App& command, CommandArguments& arguments) {
  command.add_option("what", arguments.what, "shapes by name, safetensors files or model folders");
  const std::string shape = "Shape";
  command.add_option("--experts", arguments.experts, "number of experts E")
      ->check(tools::above_zero<std::int64_t>())
      ->group(shape);
  command.add_option("--n", arguments.n, "outputs N of an expert")->check(tools::above_zero<std::int64_t>())->group(shape);
  command.add_option("--k", arguments.k, "inputs K of an expert")->check(tools::above_zero<std::int64_t>())->group(shape);
  command.add_option("--top", arguments.top, "experts per token")->check(tools::above_zero<std::int64_t>())->group(shape);
  command.add_option("--tokens", arguments.tokens, "tokens T per call")
      ->delimiter(',')
      ->check(tools::above_zero<std::int64_t>())
      ->group(shape);
  command
      .add_option(
          "--routing", arguments.routings,
          "uniform, balanced (equally many rows for every expert), learned (as uneven as a trained router), half (half of all "
          "rows to one expert), or one (all rows to one expert)")
      ->delimiter(',')
      ->group(shape);

  const std::string types = "Types";
  command.add_option("--mode", arguments.mode, detail::list_of_modes())->group(types);
  command.add_option("--bits", arguments.bits, "bits per code")->group(types);
  command.add_option("--group-size", arguments.group_size, "weights per scale")->group(types);
  command.add_flag("--no-transpose", arguments.not_transposed, "weights are (E, K, N), packed along N")->group(types);
  command.add_option("--dtype", arguments.dtypes, "type of x: float16, bfloat16, float32")->delimiter(',')->group(types);
  command.add_option("--precision", arguments.precisions, "default, fast, float32")->delimiter(',')->group(types);
  command.add_flag("--packed", arguments.packed, "weights from gqmm::pack, not in place")->group(types);
}

/// Adds the options of suites. It must be called after the options that make single cases, because a suite excludes all of those.
void add_suite_options(CLI::App& command, CommandArguments& arguments) {
  const std::vector<CLI::Option*> single =
      command.get_options([](const CLI::Option* option) { return option->get_name() != "--help"; });
  const auto names = suite_names();
  CLI::Option* suite = command.add_option("--suite", arguments.suite, "a fixed set of cases")
                           ->check(CLI::IsMember(std::vector<std::string>(names.begin(), names.end())));
  for (CLI::Option* option : single) {
    suite->excludes(option);
  }
  command.add_option("--only", arguments.only, "keep the cases whose names contain every one of these texts")->delimiter(',');
  command.add_flag("--list", arguments.list, "print the names of the cases, and measure nothing");
  command.add_flag(
      "--explain", arguments.explain,
      "print the plan of each case, and measure nothing: which kernels run, on which blocks (--format json: for programs)");
}

void add_machine_options(CLI::App& command, CommandArguments& arguments) {
  const std::string machine = "Machine";
  command.add_option("--threads", arguments.threads, "threads of a call")
      ->delimiter(',')
      ->check(tools::whole_number_to(Stream::max_threads))
      ->group(machine);
  command.add_option("--isa", arguments.isas, "instruction sets")->delimiter(',')->group(machine);
  command.add_option("--pages", arguments.pages, "pages of the weights: default, huge, small")->group(machine);
  command
      .add_option_function<std::size_t>(
          "--pool", [&arguments](std::size_t mebibytes) { arguments.measure.pool_bytes = mebibytes << 20; },
          "least MiB of weights to rotate through (eight times the last-level cache, so that they come from memory)")
      ->check(tools::above_zero<int>())
      ->group(machine);
  command.add_option("--probes", arguments.measure.probe_set, "instructions whose peak is the limit (the machine's best)")
      ->group(machine);
}

void add_method_options(CLI::App& command, CommandArguments& arguments) {
  const std::string method = "Method";
  command.add_option("--repetitions", arguments.measure.repetitions, "accepted repetitions per case")
      ->check(tools::above_zero<int>())
      ->group(method)
      ->capture_default_str();
  command.add_option("--unsteady", arguments.unsteady, "difference of the limits around a repetition that rejects it")
      ->group(method)
      ->capture_default_str();
  command.add_option("--peers", arguments.peers, "a Python interpreter with the peers, auto or none")->group(method);
  command.add_option("--with", arguments.with, "peers to measure, by the beginnings of their names")
      ->delimiter(',')
      ->group(method);
  command.add_option("--peer-seconds", arguments.measure.peer_seconds, "time for each peer per case")
      ->check(tools::above_zero<double>())
      ->group(method)
      ->capture_default_str();
}

void add_comparison_options(CLI::App& command, CommandArguments& arguments) {
  const std::string comparison = "Comparison";
  CLI::Option* compare = command
                             .add_option("--compare", arguments.compare,
                                         "figures that --json saved on this machine: exit status 1 if a case is slower")
                             ->group(comparison);
  command.add_option("--tolerance", arguments.tolerance, "least difference from the saved fraction of the limit that counts")
      ->needs(compare)
      ->group(comparison)
      ->capture_default_str();
  command.add_option("--measured", arguments.measured, "compare the figures of this file, and measure nothing")
      ->needs(compare)
      ->group(comparison);
}

}  // namespace

void add_command(CLI::App& program, int& exit_status) {
  const auto arguments = std::make_shared<CommandArguments>();
  CLI::App* command = program.add_subcommand("bench", "Measure gather_qmm as a fraction of what this machine can do");
  // ./dev bench puts some options before those of its caller. The last value of an option holds. Lists keep all of their values.
  command->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  add_shape_options(*command, *arguments);
  add_suite_options(*command, *arguments);
  add_machine_options(*command, *arguments);
  add_method_options(*command, *arguments);
  add_output_options(*command, arguments->outputs, {"table", "markdown", "csv", "json"});
  add_comparison_options(*command, *arguments);
  command->footer(known_shape_list());
  add_mlx_lm_command(*command);
  add_scale_command(*command);
  command->callback([arguments, command, &exit_status] {
    if (command->get_subcommands().empty()) {
      exit_status = run(*arguments);
    }
  });
}

}  // namespace gqmm::bench
