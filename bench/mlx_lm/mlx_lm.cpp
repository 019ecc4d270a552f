#include "mlx_lm/mlx_lm.hpp"

#include "carried_files.hpp"
#include "mlx_lm/mlx_lm_report.hpp"
#include "peers/peers.hpp"
#include "report/outputs.hpp"
#include "tools/child_process.hpp"
#include "tools/progress.hpp"
#include "tools/validators.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace gqmm::bench {
namespace {

using json = nlohmann::ordered_json;

/// A layer of Qwen3-30B-A3B, with a small vocabulary. With the model's vocabulary of 151,936 the head alone would be five times
/// the layer's work for a token.
struct LayerSettings {
  std::int64_t hidden = 2048;
  std::int64_t experts = 128;
  std::int64_t top = 8;
  std::int64_t width = 768;
  std::int64_t heads = 32;
  std::int64_t kv_heads = 4;
  std::int64_t head_dim = 128;
  std::int64_t vocabulary = 256;

  bool operator==(const LayerSettings&) const = default;
};

struct Arguments {
  LayerSettings layer;
  std::int64_t tokens = 64;
  std::vector<std::string> dtypes = {"float32", "bfloat16"};
  std::string precision = "default";
  bool pack = false;
  std::string python = "auto";
  int repetitions = 9;
  double seconds = 30;
  int tiny_turns = 101;
  Outputs outputs;
};

void check(const Arguments& arguments) {
  const LayerSettings& layer = arguments.layer;
  constexpr std::int64_t group_size = 64;
  const auto must_be_multiple = [&](const char* option, std::int64_t value) {
    if (value % group_size != 0) {
      throw std::invalid_argument(fmt::format(
          "[bench mlx-lm] {} = {} is not a multiple of {}, the quantization's group; round it up", option, value, group_size));
    }
  };
  must_be_multiple("--hidden", layer.hidden);
  must_be_multiple("--width", layer.width);
  must_be_multiple("--heads times --head-dim", layer.heads * layer.head_dim);
  if (layer.top > layer.experts) {
    throw std::invalid_argument(fmt::format(
        "[bench mlx-lm] --top = {} exceeds --experts = {}; a token uses each expert once at most", layer.top, layer.experts));
  }
  if (layer.heads % layer.kv_heads != 0) {
    throw std::invalid_argument(
        fmt::format("[bench mlx-lm] --heads = {} is not a multiple of --kv-heads = {}; equally many heads share each of those",
                    layer.heads, layer.kv_heads));
  }
}

json settings_of(const Arguments& arguments) {
  const LayerSettings& layer = arguments.layer;
  return {{"hidden", layer.hidden},
          {"experts", layer.experts},
          {"top", layer.top},
          {"width", layer.width},
          {"heads", layer.heads},
          {"kv_heads", layer.kv_heads},
          {"head_dim", layer.head_dim},
          {"vocabulary", layer.vocabulary},
          {"tokens", arguments.tokens},
          {"dtypes", arguments.dtypes},
          {"precision", arguments.precision},
          {"pack", arguments.pack},
          {"repetitions", arguments.repetitions},
          {"seconds", arguments.seconds},
          {"tiny_turns", arguments.tiny_turns}};
}

json measure(const std::string& python, const json& settings) {
  tools::ChildProcess process({python, "-c", std::string(mlx_lm_script)});
  process.write_line(settings.dump());
  tools::ProgressBar bar;
  for (;;) {
    const json answer = json::parse(process.read_line());
    if (answer.contains("error")) {
      throw std::runtime_error(fmt::format("[bench mlx-lm] {}", answer.at("error").get<std::string>()));
    }
    if (answer.contains("figures")) {
      return answer.at("figures");
    }
    bar.show(answer.at("done"), answer.at("doing").get<std::string>());
  }
}

void run(const Arguments& arguments) {
  check(arguments);
  const std::string python = find_python(arguments.python, "--python");
  if (python.empty()) {
    throw std::invalid_argument(
        "[bench mlx-lm] there is no Python here: neither .venv/bin/python nor an active environment; name one that has mlx-lm "
        "and gqmm with --python");
  }
  MlxLmReport report = {describe_machine(), command_line(), today(), settings_of(arguments), {}, {}};
  report.machine.library_revision = arguments.outputs.revision;
  const std::string stem = fmt::format("mlx-lm-{}", file_name_of(report.machine));
  check_outputs(arguments.outputs, stem);
  report.figures = summarized(measure(python, report.settings));
  report.has_aims = arguments.layer == LayerSettings() && arguments.tokens == Arguments().tokens;
  write_outputs(arguments.outputs, stem, [&](std::ostream& out, const std::string& format) { write(out, report, format); });
}

void add_options(CLI::App& command, Arguments& arguments) {
  const auto number = [&](const char* group, const char* name, auto& value, const char* text) {
    command.add_option(name, value, text)
        ->check(tools::above_zero<std::remove_cvref_t<decltype(value)>>())
        ->group(group)
        ->capture_default_str();
  };
  const char* const shape = "Shape";
  number(shape, "--tokens", arguments.tokens, "tokens of the prompt");
  number(shape, "--hidden", arguments.layer.hidden, "width of the model");
  number(shape, "--experts", arguments.layer.experts, "experts of the layer");
  number(shape, "--top", arguments.layer.top, "experts per token");
  number(shape, "--width", arguments.layer.width, "width of an expert");
  number(shape, "--heads", arguments.layer.heads, "heads of attention's queries");
  number(shape, "--kv-heads", arguments.layer.kv_heads, "heads of attention's keys and values");
  number(shape, "--head-dim", arguments.layer.head_dim, "dimension of a head");
  number(shape, "--vocabulary", arguments.layer.vocabulary, "tokens of the embedding and the head");
  command.add_option("--dtype", arguments.dtypes, "type of activations, scales and norms: float32, bfloat16, float16")
      ->delimiter(',')
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}))
      ->group(shape);

  command.add_option("--precision", arguments.precision, "precision of gqmm.mlx")
      ->check(CLI::IsMember({"default", "fast", "float32"}))
      ->group("gqmm.mlx")
      ->capture_default_str();
  command.add_flag("--pack", arguments.pack, "gqmm.mlx packs weights")->group("gqmm.mlx");

  const char* const method = "Method";
  command.add_option("--python", arguments.python, "an interpreter that has mlx-lm and gqmm, or auto")->group(method);
  number(method, "--seconds", arguments.seconds, "seconds of stock MLX per case; one repetition is made in any case");
  number(method, "--repetitions", arguments.repetitions, "largest number of repetitions of stock MLX per case");
  number(method, "--tiny-turns", arguments.tiny_turns, "repetitions of tiny calls");
  add_output_options(command, arguments.outputs, {"table", "markdown", "json"});
}

}  // namespace

CLI::App* add_mlx_lm_command(CLI::App& bench) {
  const std::vector<CLI::Option*> others =
      bench.get_options([](const CLI::Option* option) { return option->get_name() != "--help"; });
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      bench.add_subcommand("mlx-lm", "A layer of a language model through mlx-lm: stock MLX and gqmm.mlx, by turns");
  for (CLI::Option* other : others) {
    command->excludes(other);
  }
  add_options(*command, *arguments);
  command->footer(
      R"(The layer is one of Qwen3-30B-A3B unless options say otherwise, 4-bit affine in groups of 64.
docs/dev/benchmarking.md says more.

Examples:
  gqmm bench mlx-lm                              float32 and bfloat16, some minutes
  gqmm bench mlx-lm --dtype float32 --seconds 5  less than one)");
  command->callback([arguments] { run(*arguments); });
  return command;
}

}  // namespace gqmm::bench
