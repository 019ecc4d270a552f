#include "cli/quantized_output.hpp"

#include "cli/interruption.hpp"
#include "io/error.hpp"
#include "io/mapped_file.hpp"
#include "io/model_copy.hpp"
#include "io/new_folder.hpp"
#include "io/safetensors_writer.hpp"
#include "tools/progress.hpp"

#include <gqmm/ops.hpp>

#include <fmt/format.h>

#include <sys/resource.h>
#include <algorithm>
#include <cmath>
#include <functional>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

namespace gqmm::cli {
namespace {

/// The work between two checks for a signal. It takes some milliseconds.
constexpr std::int64_t weights_at_a_time = 1 << 20;
constexpr std::size_t bytes_at_a_time = 16 << 20;

bool is_finite(const array& a) {
  for (std::int64_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(detail::load_float(a.bytes() + i * a.itemsize(), a.dtype()))) {
      return false;
    }
  }
  return true;
}

/// Writes tensors, shows the progress and checks for signals.
class TensorWriter {
 public:
  explicit TensorWriter(const std::vector<io::PlannedTensor>& plan) {
    for (const io::PlannedTensor& item : plan) {
      total_ += item.source.nbytes();
    }
  }

  void write(io::SafetensorsWriter& writer, const io::PlannedTensor& item) {
    std::uint64_t before = 0;
    for (const io::NamedTensor& part : item.source.parts) {
      if (item.settings) {
        quantize_part(writer, item, part, before);
      } else {
        copy_part(writer, item, part, before);
      }
      before += part.tensor->bytes.size();
    }
  }

 private:
  void advance(const io::PlannedTensor& item, std::size_t bytes) {
    check_interruption();
    bar_.show(static_cast<double>(done_) / static_cast<double>(std::max<std::uint64_t>(total_, 1)),
              io::printable(item.source.name));
    done_ += bytes;
  }

  void copy_part(io::SafetensorsWriter& writer, const io::PlannedTensor& item, const io::NamedTensor& part,
                 std::uint64_t before) {
    const auto bytes = part.tensor->bytes;
    for (std::size_t at = 0; at < bytes.size(); at += bytes_at_a_time) {
      const auto block = bytes.subspan(at, std::min(bytes_at_a_time, bytes.size() - at));
      advance(item, block.size());
      writer.write_part(item.source.name, before + at, block);
    }
  }

  /// Quantizes a part in blocks of rows. The result has the bits that the whole tensor would give, because each row is quantized
  /// on its own. `before` is the number of bytes in the parts before this one.
  void quantize_part(io::SafetensorsWriter& writer, const io::PlannedTensor& item, const io::NamedTensor& part,
                     std::uint64_t before) {
    const io::Tensor& tensor = *part.tensor;
    const Dtype dtype = *tensor.dtype();
    const std::int64_t K = tensor.shape.back();
    const std::size_t row_bytes = static_cast<std::size_t>(K) * size_of(dtype);
    const std::size_t block = static_cast<std::size_t>(std::max<std::int64_t>(weights_at_a_time / K, 1)) * row_bytes;
    for (std::size_t at = 0; at < tensor.bytes.size(); at += block) {
      const auto bytes = tensor.bytes.subspan(at, std::min(block, tensor.bytes.size() - at));
      advance(item, bytes.size());
      const auto rows = static_cast<std::int64_t>(bytes.size() / row_bytes);
      const array weights = array::borrow(bytes.data(), {rows, K}, dtype, {}, tensor.owner);
      const QuantizedWeights quantized = quantize_block(weights, item, part);
      const std::uint64_t first = (before + at) / row_bytes;
      put(writer, item.layer() + ".weight", first, quantized.w);
      put(writer, item.layer() + ".scales", first, quantized.scales);
      if (quantized.biases) {
        put(writer, item.layer() + ".biases", first, *quantized.biases);
      }
    }
  }

  static QuantizedWeights quantize_block(const array& weights, const io::PlannedTensor& item, const io::NamedTensor& part) {
    const QuantizeOptions options = {.group_size = item.settings->group_size,
                                     .bits = item.settings->format->bits,
                                     .mode = item.settings->format->mode,
                                     .global_scale = {},
                                     .stream = {}};
    try {
      try {
        QuantizedWeights result = quantize(weights, options);
        if (item.settings->format->has_biases && (!is_finite(result.scales) || !is_finite(*result.biases))) {
          throw std::invalid_argument(
              fmt::format("[quantize] there are NaN or Inf among the weights, or the weights are too far apart for scales in {}; "
                          "repair the checkpoint or --exclude the tensor",
                          name_of(result.scales.dtype())));
        }
        return result;
      } catch (const std::invalid_argument&) {
        // If there are NaN or Inf among the weights, this call throws a message with their place in the whole tensor.
        (void)quantize(part.tensor->view(), options);
        throw;
      }
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(fmt::format("{}: {}", io::in_quotes(part.name), error.what()));
    }
  }

  /// Writes rows of a tensor from its row `first` on.
  static void put(io::SafetensorsWriter& writer, const std::string& name, std::uint64_t first, const array& rows) {
    const std::span bytes(rows.bytes(), rows.nbytes());
    writer.write_part(name, first * (bytes.size() / static_cast<std::uint64_t>(rows.dim(0))), bytes);
  }

  std::uint64_t total_ = 0;
  std::uint64_t done_ = 0;
  tools::ProgressBar bar_;
};

using Items = std::vector<const io::PlannedTensor*>;

io::SafetensorsWriter open_shard(io::PendingFile file, const Items& items, const io::Metadata& metadata) {
  std::vector<io::TensorLayout> layouts;
  for (const io::PlannedTensor* item : items) {
    for (io::TensorLayout& layout : item->layouts()) {
      layouts.push_back(std::move(layout));
    }
  }
  return {std::move(file), layouts, metadata};
}

std::vector<Items> cut_into_shards(const std::vector<io::PlannedTensor>& plan, std::uint64_t shard_bytes) {
  std::vector<Items> shards;
  std::uint64_t filled = 0;
  for (const io::PlannedTensor& item : plan) {
    const std::uint64_t bytes = item.bytes_after();
    if (shards.empty() || filled + bytes > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(&item);
    filled += bytes;
  }
  return shards;
}

std::string shard_name(std::size_t shard, std::size_t shards) {
  return shards == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards);
}

/// The text of model.safetensors.index.json in mlx-lm's form. It also has the list of files by which --force recognises the
/// folder.
std::string index_of(const std::vector<Items>& shards, const std::vector<std::string>& files) {
  std::uint64_t bytes = 0;
  std::int64_t parameters = 0;
  nlohmann::json weight_map = nlohmann::json::object();  // this type sorts its keys
  for (std::size_t i = 0; i < shards.size(); ++i) {
    for (const io::PlannedTensor* item : shards[i]) {
      bytes += item->bytes_after();
      parameters += element_count(item->source.shape);
      for (const io::TensorLayout& layout : item->layouts()) {
        weight_map[layout.name] = shard_name(i, shards.size());
      }
    }
  }
  const nlohmann::ordered_json index = {
      {"metadata", {{"total_size", bytes}, {"total_parameters", parameters}, {io::written_files_key, files}}},
      {"weight_map", weight_map}};
  return index.dump(4) + "\n";
}

/// A file of the result that is complete but has no name yet.
struct SmallFile {
  std::string name;
  io::PendingFile file;
};

SmallFile write_small_file(const io::NewFolder& folder, const std::string& name, std::span<const std::byte> bytes) {
  check_interruption();
  SmallFile result = {name, folder.new_file(name)};
  result.file.write_at(0, bytes);
  result.file.flush();
  return result;
}

/// Raises the limit of open files. Every shard is open until the end, and a model may have more shards than the default limit.
void allow_open_files() {
  struct ::rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    static_cast<void>(::setrlimit(RLIMIT_NOFILE, &limit));
  }
}

}  // namespace

std::uint64_t write_file(const QuantizeJob& job, const std::filesystem::path& out) {
  io::Metadata metadata = job.checkpoint->metadata;
  metadata.insert_or_assign("format", "mlx");
  metadata.insert_or_assign("quantization", io::quantization_of(job.plan, job.settings).dump());
  std::vector<io::TensorLayout> layouts;
  for (const io::PlannedTensor& item : job.plan) {
    for (io::TensorLayout& layout : item.layouts()) {
      layouts.push_back(std::move(layout));
    }
  }
  io::SafetensorsWriter writer(out, layouts, metadata, job.force);
  TensorWriter tensors(job.plan);
  for (const io::PlannedTensor& item : job.plan) {
    tensors.write(writer, item);
  }
  writer.flush();
  check_interruption();
  writer.commit();
  return writer.file_size();
}

std::uint64_t write_folder(const QuantizeJob& job, const std::filesystem::path& out, const std::string& config,
                           std::uint64_t shard_bytes) {
  allow_open_files();
  const io::NewFolder folder(out, job.force);
  const std::filesystem::path& from = job.checkpoint->path;
  const std::vector<Items> shards = cut_into_shards(job.plan, shard_bytes);
  std::vector<std::string> names = io::files_beside_weights(from);
  std::vector<SmallFile> small_files;
  for (const std::string& name : names) {
    small_files.push_back(write_small_file(folder, name, io::MappedFile::open(from / name)->bytes()));
  }
  names.emplace_back("config.json");
  names.emplace_back(io::index_name);
  for (std::size_t i = 0; i < shards.size(); ++i) {
    names.push_back(shard_name(i, shards.size()));
  }
  const std::string new_config = io::with_quantization(config, io::quantization_of(job.plan, job.settings).dump());
  small_files.push_back(write_small_file(folder, "config.json", std::as_bytes(std::span(new_config))));
  const std::string index = index_of(shards, names);
  small_files.push_back(write_small_file(folder, io::index_name, std::as_bytes(std::span(index))));

  // The space of all shards is reserved on the disk before the work begins.
  io::Metadata metadata = job.checkpoint->metadata;
  metadata.erase("quantization");
  metadata.insert_or_assign("format", "mlx");
  std::vector<io::SafetensorsWriter> writers;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    writers.push_back(open_shard(folder.new_file(shard_name(i, shards.size())), shards[i], metadata));
    bytes += writers.back().file_size();
  }
  TensorWriter tensors(job.plan);
  for (std::size_t i = 0; i < shards.size(); ++i) {
    for (const io::PlannedTensor* item : shards[i]) {
      tensors.write(writers[i], *item);
    }
    writers[i].flush();
  }
  check_interruption();
  folder.commit(names, [&](const std::filesystem::path& inside) {
    for (SmallFile& small : small_files) {
      small.file.publish({inside / small.name, {}}, false);
    }
    for (std::size_t i = 0; i < writers.size(); ++i) {
      writers[i].commit_as(inside / shard_name(i, shards.size()));
    }
  });
  return bytes;
}

}  // namespace gqmm::cli
