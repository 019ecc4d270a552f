#include "io/checkpoint.hpp"

#include "io/error.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"

#include <fmt/format.h>

#include <system_error>
#include <utility>

namespace gqmm::io {
namespace {

using nlohmann::json;

/// For paths out of a folder: a plain name, nothing that walks.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

bool is_there(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

SafetensorsFile add_file(Checkpoint& checkpoint, const std::filesystem::path& path) {
  SafetensorsFile file = open_safetensors(path);
  checkpoint.files.push_back(path);
  const auto settings = file.metadata.find("quantization");
  if (settings != file.metadata.end() && !checkpoint.quantization) {
    checkpoint.quantization = parse_quantization(settings->second, path.native() + ", metadata \"quantization\"");
  }
  checkpoint.metadata.merge(file.metadata);
  return file;
}

void add_shards(Checkpoint& checkpoint, const std::filesystem::path& folder, const std::filesystem::path& index) {
  const auto weight_map = parse_weight_map(MappedFile::open(index)->text(), index.native());
  std::map<std::string, SafetensorsFile> shards;
  for (const auto& [name, file_name] : weight_map) {
    auto shard = shards.find(file_name);
    if (shard == shards.end()) {
      shard = shards.emplace(file_name, add_file(checkpoint, folder / file_name)).first;
    }
    auto tensor = shard->second.tensors.extract(name);
    if (tensor.empty()) {
      throw FileError(index.native(), fmt::format("tensor {} should be in {} but is not", in_quotes(name), in_quotes(file_name)));
    }
    checkpoint.tensors.insert(std::move(tensor));
  }
}

}  // namespace

std::map<std::string, std::string, std::less<>> parse_weight_map(std::string_view text, std::string_view origin) {
  const json index = parse_json(text, origin);
  const auto found = index.is_object() ? index.find("weight_map") : index.end();
  if (found == index.end() || !found->is_object()) {
    throw FileError(origin, "there is no JSON object \"weight_map\", which names the file of every tensor");
  }
  std::map<std::string, std::string, std::less<>> files;
  for (const auto& [name, file] : found->items()) {
    if (!file.is_string() || !is_plain_file_name(file.get_ref<const std::string&>())) {
      throw FileError(origin,
                      fmt::format("tensor {} is in {}, which is not the name of a file in the same folder", in_quotes(name),
                                  printable(file.is_string() ? in_quotes(file.get_ref<const std::string&>()) : file.dump())));
    }
    files.emplace(name, file.get_ref<const std::string&>());
  }
  return files;
}

Checkpoint open_checkpoint(const std::filesystem::path& path) {
  Checkpoint checkpoint;
  checkpoint.path = path;
  std::error_code error;
  const bool is_folder = std::filesystem::is_directory(path, error);
  const std::filesystem::path folder = is_folder ? path : path.parent_path();
  if (!is_folder) {
    checkpoint.tensors = add_file(checkpoint, path).tensors;
  } else if (const auto index = folder / "model.safetensors.index.json"; is_there(index)) {
    add_shards(checkpoint, folder, index);
  } else if (const auto single = folder / "model.safetensors"; is_there(single)) {
    checkpoint.tensors = add_file(checkpoint, single).tensors;
  } else {
    throw FileError(path.native(),
                    "holds neither model.safetensors nor model.safetensors.index.json; name a safetensors file or "
                    "the folder of a model");
  }
  if (const auto config = folder / "config.json"; !checkpoint.quantization && is_there(config)) {
    checkpoint.quantization = parse_model_config(MappedFile::open(config)->text(), config.native());
  }
  return checkpoint;
}

}  // namespace gqmm::io
