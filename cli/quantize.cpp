#include "bench/progress.hpp"
#include "cli/commands.hpp"
#include "cli/output.hpp"
#include "io/checkpoint.hpp"
#include "io/error.hpp"
#include "io/safetensors_writer.hpp"

#include <gqmm/ops.hpp>

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

struct QuantizeArguments {
  std::string in;
  std::string out;
  std::string mode = "affine";
  std::optional<int> bits;
  std::optional<int> group_size;
  bool force = false;
  OutputFormat format = OutputFormat::table;
};

/// What becomes of one tensor: three (or two) quantized ones with the names below, or a copy.
struct Plan {
  std::string name;
  const io::Tensor* tensor;
  bool quantized;
  std::string layer;  // without ".weight"
};

/// Float matrices whose rows are whole groups.
bool is_quantizable(const io::Tensor& tensor, int group_size) {
  return tensor.dtype() && is_compute_float(*tensor.dtype()) && tensor.shape.size() >= 2 && !tensor.bytes.empty() &&
         tensor.shape.back() % group_size == 0;
}

std::string layer_of(const std::string& name) {
  constexpr std::string_view suffix = ".weight";
  return name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : name;
}

std::vector<Plan> make_plan(const io::Checkpoint& checkpoint, int group_size) {
  std::vector<Plan> plan;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    const std::string layer = layer_of(name);
    if (tensor.dtype() == Dtype::uint32 && checkpoint.tensors.contains(layer + ".scales")) {
      throw io::FileError(
          checkpoint.path.native(),
          fmt::format("{} is quantized already; give the float checkpoint that it was made from", io::in_quotes(name)));
    }
    plan.push_back({name, &tensor, is_quantizable(tensor, group_size), layer});
  }
  return plan;
}

Shape with_last(Shape shape, std::int64_t last) {
  shape.back() = last;
  return shape;
}

std::vector<io::TensorLayout> layouts_of(const std::vector<Plan>& plan, const QuantizationSettings& settings) {
  std::vector<io::TensorLayout> layouts;
  for (const Plan& item : plan) {
    const Shape& shape = item.tensor->shape;
    if (!item.quantized) {
      layouts.push_back({item.name, item.tensor->type, shape});
      continue;
    }
    const bool affine = settings.format->has_biases;
    const Shape scales = with_last(shape, shape.back() / settings.group_size);
    layouts.push_back({item.layer + ".weight", "U32", with_last(shape, shape.back() * settings.format->bits / 32)});
    layouts.push_back({item.layer + ".scales", affine ? item.tensor->type : "U8", scales});
    if (affine) {
      layouts.push_back({item.layer + ".biases", item.tensor->type, scales});
    }
  }
  return layouts;
}

std::span<const std::byte> bytes_of(const array& a) {
  return {a.bytes(), static_cast<std::size_t>(a.size()) * size_of(a.dtype())};
}

void write_quantized(io::SafetensorsWriter& writer, const Plan& item, const QuantizationSettings& settings) {
  Quantized quantized;
  try {
    quantized = quantize(item.tensor->view(), {.group_size = settings.group_size,
                                               .bits = settings.format->bits,
                                               .mode = settings.format->mode,
                                               .global_scale = {},
                                               .stream = {}});
  } catch (const std::invalid_argument& error) {  // NaN or Inf among the weights
    throw std::invalid_argument(fmt::format("{}: {}", io::in_quotes(item.name), error.what()));
  }
  writer.write(item.layer + ".weight", bytes_of(quantized.w));
  writer.write(item.layer + ".scales", bytes_of(quantized.scales));
  if (quantized.biases) {
    writer.write(item.layer + ".biases", bytes_of(*quantized.biases));
  }
}

void run(const QuantizeArguments& arguments) {
  const QuantizationSettings settings =
      resolve_settings("quantize", mode_from_name(arguments.mode, "quantize"), arguments.bits ? &*arguments.bits : nullptr,
                       arguments.group_size ? &*arguments.group_size : nullptr);
  if (std::error_code error; !arguments.force && std::filesystem::exists(arguments.out, error)) {
    throw io::FileError(arguments.out, "exists already; --force replaces it");
  }
  const io::Checkpoint checkpoint = io::open_checkpoint(arguments.in);
  const std::vector<Plan> plan = make_plan(checkpoint, settings.group_size);
  if (std::none_of(plan.begin(), plan.end(), [](const Plan& item) { return item.quantized; })) {
    throw io::FileError(arguments.in,
                        fmt::format("no tensor is a float matrix whose rows are a multiple of group_size = {}; there is "
                                    "nothing to quantize",
                                    settings.group_size));
  }
  io::Metadata metadata = checkpoint.metadata;
  metadata.insert_or_assign("format", "mlx");
  metadata.insert_or_assign("quantization", io::quantization_json(settings));

  io::SafetensorsWriter writer(arguments.out, layouts_of(plan, settings), metadata, arguments.force);
  bench::ProgressBar bar;
  std::size_t total = 0;
  for (const Plan& item : plan) {
    total += item.tensor->bytes.size();
  }
  std::size_t done = 0;
  std::size_t matrices = 0;
  for (const Plan& item : plan) {
    bar.show(static_cast<double>(done) / static_cast<double>(std::max<std::size_t>(total, 1)), io::printable(item.name));
    if (item.quantized) {
      write_quantized(writer, item, settings);
      ++matrices;
    } else {
      writer.write(item.name, item.tensor->bytes);
    }
    done += item.tensor->bytes.size();
  }
  writer.commit();
  bar.clear();
  const auto bytes = static_cast<std::uint64_t>(std::filesystem::file_size(arguments.out));
  if (arguments.format == OutputFormat::table) {
    print(fmt::format("{}: {} tensors to {}, group_size {}; {} copied; {} bytes became {}\n", io::printable(arguments.out),
                      matrices, describe(*settings.format), settings.group_size, plan.size() - matrices, total, bytes));
    return;
  }
  Rows rows({"path", "mode", "bits", "group_size", "quantized", "copied", "bytes_before", "bytes_after"});
  rows.add({arguments.out, std::string(name_of(settings.format->mode)), settings.format->bits, settings.group_size, matrices,
            plan.size() - matrices, total, bytes});
  print(arguments.format == OutputFormat::csv ? rows.csv() : json_text(rows.json().at(0)));
}

}  // namespace

void add_quantize_command(CLI::App& program) {
  const auto arguments = std::make_shared<QuantizeArguments>();
  CLI::App* command = program.add_subcommand("quantize", "Quantize the matrices of a float checkpoint");
  command->add_option("IN", arguments->in, "A safetensors file, or the folder of a model")->required();
  command->add_option("OUT", arguments->out, "The safetensors file to write")->required();
  command->add_option("--mode", arguments->mode, "affine, mxfp4, mxfp8 or nvfp4")->type_name("MODE")->capture_default_str();
  command->add_option("--bits", arguments->bits, "Bits per weight: 1, 2, 3, 4, 5, 6, 8 for affine; the others have one value")
      ->type_name("B");
  command
      ->add_option("--group-size", arguments->group_size, "Weights per scale: 32, 64, 128 for affine; the others have one value")
      ->type_name("G");
  add_format_option(*command, arguments->format);
  command->add_flag("--force", arguments->force, "Replace OUT if it exists");
  command->footer(
      R"(Every float16, bfloat16 or float32 tensor of at least two dimensions whose last is a multiple of the group size is quantized along
that dimension: NAME.weight (or NAME) becomes NAME.weight, NAME.scales and, in mode affine, NAME.biases, bit for bit those of
mlx.core.quantize. Everything else is copied. The settings go into the file's metadata, where `inspect` and `check` find them.
OUT appears whole or not at all.

Examples:
  gqmm quantize model.safetensors model-4bit.safetensors
  gqmm quantize model.safetensors model-6bit.safetensors --bits 6 --group-size 32
  gqmm quantize path/to/model model-mxfp4.safetensors --mode mxfp4 --force)");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace gqmm::cli
