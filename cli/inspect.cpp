#include "cli/commands.hpp"
#include "cli/output.hpp"
#include "formats/texts.hpp"
#include "io/checkpoint.hpp"
#include "io/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace gqmm::cli {
namespace {

struct InspectOptions {
  std::string path;
  io::AssumedSettings assumed;
  OutputFormat format = OutputFormat::table;
};

/// One row for each tensor. The columns "global_scale" and "inferred" exist only if a tensor has a value for them.
Rows rows_of(const std::vector<io::QuantizedTensor>& tensors) {
  const bool any_inferred =
      std::any_of(tensors.begin(), tensors.end(), [](const io::QuantizedTensor& tensor) { return !tensor.inferred.empty(); });
  const bool any_global_scale = std::any_of(
      tensors.begin(), tensors.end(), [](const io::QuantizedTensor& tensor) { return tensor.weights.global_scale.has_value(); });
  std::vector<std::string> keys = {"tensor", "experts", "N", "K", "bits", "group_size", "mode", "scales", "bytes"};
  if (any_global_scale) {
    keys.emplace_back("global_scale");
  }
  if (any_inferred) {
    keys.emplace_back("inferred");
  }
  Rows rows(keys);
  for (const io::QuantizedTensor& tensor : tensors) {
    std::vector<Rows::Value> values = {tensor.name,
                                       tensor.experts,
                                       tensor.N,
                                       tensor.K,
                                       *tensor.weights.bits,
                                       *tensor.weights.group_size,
                                       std::string(name_of(tensor.weights.mode)),
                                       std::string(name_of(tensor.weights.scales.dtype())),
                                       tensor.nbytes()};
    if (any_global_scale) {
      values.push_back(tensor.weights.global_scale ? Rows::Value(to_string(tensor.weights.global_scale->shape()))
                                                   : Rows::Value());
    }
    if (any_inferred) {
      values.push_back(tensor.inferred.empty() ? Rows::Value() : Rows::Value(tensor.inferred));
    }
    rows.add(std::move(values));
  }
  return rows;
}

void inspect(const InspectOptions& options) {
  const io::Checkpoint checkpoint = io::open_checkpoint(options.path);
  const std::vector<io::QuantizedTensor> tensors = io::quantized_tensors(checkpoint, options.assumed);
  const Rows rows = rows_of(tensors);
  const std::int64_t bytes =
      std::accumulate(tensors.begin(), tensors.end(), std::int64_t{0},
                      [](std::int64_t sum, const io::QuantizedTensor& tensor) { return sum + tensor.nbytes(); });
  switch (options.format) {
    case OutputFormat::csv: print(rows.csv()); break;
    case OutputFormat::json:
      print(json_text({{"path", options.path}, {"tensors", rows.json()}, {"quantized_bytes", bytes}}));
      break;
    case OutputFormat::table:
      print(rows.table());
      print(fmt::format("\n{} quantized tensors, {} bytes, of {} tensors in {} file{}\n", tensors.size(), bytes,
                        checkpoint.tensors.size(), checkpoint.files.size(), checkpoint.files.size() == 1 ? "" : "s"));
      break;
  }
}

}  // namespace

void add_inspect_command(CLI::App& program) {
  const auto options = std::make_shared<InspectOptions>();
  CLI::App* command = program.add_subcommand("inspect", "List the quantized tensors of a checkpoint");
  command->add_option("PATH", options->path, "A safetensors file, or the folder of a model")->required();
  add_format_option(*command, options->format);
  add_assumed_settings(*command, options->assumed);
  command->footer(R"(A quantized tensor is NAME.weight (uint32) with NAME.scales and, in mode affine, NAME.biases; in mode )" +
                  detail::list_of_modes_with_global_scale() + R"( it may have
NAME.global_scale, whose shape is listed. Bits, group size and mode come from config.json beside the file, tensor by tensor, or from the file's
metadata. Where they contradict the shapes of a tensor without settings of its own, the shapes decide: the column "inferred" names
what they gave.

Examples:
  gqmm inspect path/to/model
  gqmm inspect path/to/model --format json | jq '.tensors[] | select(.experts > 1)'
  gqmm inspect lone.safetensors --group-size 64)");
  command->callback([options] { inspect(*options); });
}

}  // namespace gqmm::cli
