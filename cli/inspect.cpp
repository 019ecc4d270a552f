#include "cli/commands.hpp"
#include "cli/output.hpp"
#include "io/checkpoint.hpp"
#include "io/error.hpp"

#include <fmt/format.h>

#include <memory>

namespace gqmm::cli {
namespace {

struct InspectOptions {
  std::string path;
  io::AssumedSettings assumed;
  OutputFormat format = OutputFormat::table;
};

void inspect(const InspectOptions& options) {
  const io::Checkpoint checkpoint = io::open_checkpoint(options.path);
  Rows rows({"tensor", "experts", "N", "K", "bits", "group_size", "mode", "scales", "bytes"});
  std::int64_t bytes = 0;
  std::size_t count = 0;
  for (const io::QuantizedTensor& tensor : io::quantized_tensors(checkpoint, options.assumed)) {
    rows.add({tensor.name, tensor.experts, tensor.N, tensor.K, tensor.format->bits, tensor.group_size,
              std::string(name_of(tensor.format->mode)), std::string(name_of(tensor.scales.dtype())), tensor.nbytes()});
    bytes += tensor.nbytes();
    ++count;
  }
  switch (options.format) {
    case OutputFormat::csv: print(rows.csv()); break;
    case OutputFormat::json:
      print(json_text({{"path", options.path}, {"tensors", rows.json()}, {"quantized_bytes", bytes}}));
      break;
    case OutputFormat::table:
      print(rows.table());
      print(fmt::format("\n{} quantized tensors, {} bytes, of {} tensors in {} file{}\n", count, bytes, checkpoint.tensors.size(),
                        checkpoint.files.size(), checkpoint.files.size() == 1 ? "" : "s"));
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
  command->footer(
      R"(A quantized tensor is NAME.weight (uint32) with NAME.scales and, in mode affine, NAME.biases. Bits, group size and mode come
from config.json beside the file, tensor by tensor, or from the file's metadata.

Examples:
  gqmm inspect path/to/model
  gqmm inspect path/to/model --format json | jq '.tensors[] | select(.experts > 1)'
  gqmm inspect lone.safetensors --group-size 64)");
  command->callback([options] { inspect(*options); });
}

}  // namespace gqmm::cli
