#include "cli/commands.hpp"
#include "cli/interruption.hpp"
#include "cli/output.hpp"
#include "cli/quantized_output.hpp"
#include "formats/texts.hpp"
#include "io/checkpoint.hpp"
#include "io/complete_model.hpp"
#include "io/error.hpp"
#include "io/foreign_scheme.hpp"
#include "io/mapped_file.hpp"
#include "io/new_folder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

namespace gqmm::cli {
namespace {

namespace fs = std::filesystem;

struct QuantizeArguments {
  std::string in;
  std::string out;
  std::string mode = "affine";
  std::optional<int> bits;
  std::optional<int> group_size;
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  std::vector<std::string> per_tensor;
  std::uint64_t shard_bytes = 5'000'000'000;
  bool dry_run = false;
  bool force = false;
  OutputFormat format = OutputFormat::table;
};

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

bool same_place(const fs::path& a, const fs::path& b) {
  std::error_code error;
  return fs::equivalent(a, b, error);
}

/// The text of a model's config.json, or nullopt if there is none.
std::optional<std::string> config_text(const fs::path& in) {
  const fs::path path = (is_folder(in) ? in : io::folder_of(in)) / "config.json";
  std::error_code error;
  return fs::exists(path, error) ? std::optional(std::string(io::MappedFile::open(path)->text())) : std::nullopt;
}

/// True if the output is a folder. That is so if the input is a folder and the output is not named as a file.
bool makes_folder(const QuantizeArguments& arguments) {
  return is_folder(arguments.in) && !fs::path(arguments.out).native().ends_with(".safetensors");
}

void refuse_quantized(const io::Checkpoint& checkpoint) {
  auto scheme = io::find_foreign_scheme(checkpoint.config.is_null() ? nullptr : &checkpoint.config, checkpoint.tensors);
  if (!scheme) {
    scheme = io::find_mlx_scheme(checkpoint.tensors);
  }
  if (scheme) {
    throw io::FileError(checkpoint.path.native(),
                        fmt::format("holds weights quantized by {} ({}), so it is quantized already; {}", scheme->name,
                                    scheme->evidence, scheme->remedy));
  }
}

/// Checks the place of the output before any long work begins. The code that writes the output checks it again.
void check_output(const QuantizeArguments& arguments, const io::Checkpoint& checkpoint) {
  const fs::path out = arguments.out;
  if (makes_folder(arguments)) {
    if (same_place(arguments.in, out)) {
      throw io::FileError(out.native(), "is the input itself; name another folder");
    }
    const io::NewFolder throws_if_not_allowed(out, arguments.force);
    return;
  }
  const bool exists = io::inspect_output(out).mode.has_value();
  if (exists && !arguments.force) {
    throw io::FileError(out.native(), "exists already; --force replaces it");
  }
  if (is_folder(arguments.in) && std::any_of(checkpoint.files.begin(), checkpoint.files.end(),
                                             [&](const fs::path& file) { return same_place(file, out); })) {
    throw io::FileError(out.native(), "is a file of the input, whose folder would no longer fit together; choose another name");
  }
}

void print_plan(const QuantizeArguments& arguments, const std::vector<io::PlannedTensor>& plan) {
  Rows rows({"name", "shape", "from", "to", "bytes", "why"});
  std::uint64_t before = 0;
  std::uint64_t after = 0;
  std::size_t quantized = 0;
  for (const io::PlannedTensor& item : plan) {
    const std::string to = item.settings
                               ? fmt::format("{}, group_size {}", describe(*item.settings->format), item.settings->group_size)
                               : item.source.type;
    rows.add({item.source.name, Rows::Value(item.source.shape), item.source.type, to, item.bytes_after(),
              item.reason.empty() ? Rows::Value() : Rows::Value(item.reason)});
    before += item.source.nbytes();
    after += item.bytes_after();
    quantized += item.settings ? 1 : 0;
  }
  switch (arguments.format) {
    case OutputFormat::csv: print(rows.csv()); break;
    case OutputFormat::json:
      print(json_text({{"path", arguments.in}, {"tensors", rows.json()}, {"bytes_before", before}, {"bytes_after", after}}));
      break;
    case OutputFormat::table:
      print(rows.table());
      print(fmt::format("\n{} tensors would be quantized and {} copied; {} bytes would become {}; nothing was written\n",
                        quantized, plan.size() - quantized, before, after));
      break;
  }
}

void print_result(const QuantizeArguments& arguments, const QuantizeJob& job, std::uint64_t bytes) {
  std::uint64_t before = 0;
  std::size_t quantized = 0;
  std::size_t others = 0;
  for (const io::PlannedTensor& item : job.plan) {
    before += item.source.nbytes();
    if (item.settings) {
      ++quantized;
      others += item.settings->format != job.settings.format || item.settings->group_size != job.settings.group_size ? 1 : 0;
    }
  }
  const std::size_t copied = job.plan.size() - quantized;
  if (arguments.format == OutputFormat::table) {
    print(fmt::format("{}: {} tensors to {}, group_size {}{}; {} copied; {} bytes became {}\n", io::printable(arguments.out),
                      quantized, describe(*job.settings.format), job.settings.group_size,
                      others == 0 ? "" : fmt::format(" ({} of them to other settings)", others), copied, before, bytes));
    return;
  }
  Rows rows({"path", "mode", "bits", "group_size", "quantized", "copied", "bytes_before", "bytes_after"});
  rows.add({arguments.out, std::string(name_of(job.settings.format->mode)), job.settings.format->bits, job.settings.group_size,
            quantized, copied, before, bytes});
  print(arguments.format == OutputFormat::csv ? rows.csv() : json_text(rows.json().at(0)));
}

io::PlanOptions plan_options(const QuantizeArguments& arguments) {
  io::PlanOptions options = {detail::resolve_settings("quantize", mode_from_name(arguments.mode, "quantize"),
                                                      arguments.bits ? &*arguments.bits : nullptr,
                                                      arguments.group_size ? &*arguments.group_size : nullptr),
                             arguments.include,
                             arguments.exclude,
                             {},
                             false};
  for (const std::string& text : arguments.per_tensor) {
    options.per_tensor.push_back(io::parse_tensor_settings(text, options.settings));
  }
  return options;
}

void run(const QuantizeArguments& arguments) {
  io::PlanOptions options = plan_options(arguments);
  if (arguments.out.empty() && !arguments.dry_run) {
    throw CLI::RequiredError("OUT");
  }
  const io::Checkpoint checkpoint = io::open_checkpoint(arguments.in);
  if (!arguments.dry_run) {
    check_output(arguments, checkpoint);
  }
  const std::optional<std::string> config = config_text(arguments.in);
  refuse_quantized(checkpoint);
  io::check_complete(checkpoint);
  if (!config && makes_folder(arguments)) {
    throw io::FileError(arguments.in,
                        "has no config.json, which a model's folder needs; name a file that ends in .safetensors "
                        "as OUT for the tensors alone");
  }
  options.lone_file = !config && !is_folder(arguments.in);
  const io::ModelFacts facts = io::facts_of(checkpoint.config);
  QuantizeJob job = {
      &checkpoint, io::plan_quantization(io::in_mlx_names(checkpoint.tensors, facts, arguments.in), facts, options, arguments.in),
      options.settings, arguments.force};
  if (arguments.dry_run) {
    print_plan(arguments, job.plan);
    return;
  }
  std::uint64_t bytes = 0;
  run_interruptibly([&] {
    bytes = makes_folder(arguments) ? write_folder(job, arguments.out, *config, arguments.shard_bytes)
                                    : write_file(job, arguments.out);
  });
  print_result(arguments, job, bytes);
}

/// A check for CLI::Validator. Returns what is wrong with the text of a size, or an empty string if it is above zero.
std::string above_zero(std::string& size) {
  const bool is_above_zero = !size.starts_with('-') && size.find_first_of("123456789") != std::string::npos;
  return is_above_zero ? "" : size + " is not above zero";
}

void add_selection(CLI::App& command, QuantizeArguments& arguments) {
  const std::string group = "Which tensors, and how";
  command.add_option("--include", arguments.include, "Quantize only tensors that match; may be repeated")
      ->type_name("GLOB")
      ->allow_extra_args(false)
      ->group(group);
  command
      .add_option("--exclude", arguments.exclude,
                  "Do not quantize tensors that match; may be repeated, and counts before all others")
      ->type_name("GLOB")
      ->allow_extra_args(false)
      ->group(group);
  command
      .add_option("--per-tensor", arguments.per_tensor,
                  "Other settings for tensors that match, as GLOB=BITS[:GROUP[:MODE]]; may be repeated, the last match counts")
      ->type_name("SETTING")
      ->allow_extra_args(false)
      ->group(group);
  command.add_flag("--dry-run", arguments.dry_run, "Print what would become of every tensor, and write nothing")->group(group);
}

}  // namespace

void add_quantize_command(CLI::App& program) {
  const auto arguments = std::make_shared<QuantizeArguments>();
  CLI::App* command = program.add_subcommand("quantize", "Quantize the matrices of a float checkpoint");
  command->add_option("IN", arguments->in, "A safetensors file, or the folder of a model")->required();
  command->add_option("OUT", arguments->out, "The file to write (*.safetensors), or for a model's folder the new folder");
  command->add_option("--mode", arguments->mode, detail::list_of_modes())->type_name("MODE")->capture_default_str();
  command->add_option("--bits", arguments->bits, "Bits per weight: " + detail::list_of_bits())->type_name("B");
  command->add_option("--group-size", arguments->group_size, "Weights per scale: " + detail::list_of_group_sizes())
      ->type_name("G");
  command
      ->add_option("--max-shard-size", arguments->shard_bytes,
                   "The size of the largest file in a model's folder, for example 500MB (default 5 GB)")
      ->transform(CLI::AsSizeValue(true))
      ->transform(CLI::Validator(above_zero, ""))  // this runs before AsSizeValue, which would turn -1 into a huge number
      ->type_name("SIZE");
  add_selection(*command, *arguments);
  add_format_option(*command, arguments->format);
  command->add_flag("--force", arguments->force,
                    "Replace OUT: a regular file, or a folder in which everything was written by this command");
  command->footer(
      R"(The matrices of layers are quantized along their last dimension: NAME.weight becomes NAME.weight, NAME.scales and, in mode
affine, NAME.biases. They have the same bits as those of mlx.core.quantize. Everything else is copied: biases, norms, convolutions,
tables of positions and routers. A router gets 8 bits if mlx-lm does the same. docs/guide/quantize.md states the rules, and --dry-run
shows what they decide.

A model's folder becomes a folder that mlx-lm loads. It has config.json with the settings, the tokenizer, all other small files, and
the weights in files of at most 5 GB. OUT is either complete or absent, also when the command is interrupted.

A glob matches the name of a tensor, with or without ".weight"; `*` matches dots too.

Examples:
  gqmm quantize model.safetensors model-4bit.safetensors
  gqmm quantize model.safetensors model-6bit.safetensors --bits 6 --group-size 32
  gqmm quantize path/to/model path/to/model-mxfp4 --mode mxfp4 --per-tensor 'lm_head=8:64:affine'
  gqmm quantize path/to/model --dry-run --include '*experts*' --include '*switch_mlp*')");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace gqmm::cli
