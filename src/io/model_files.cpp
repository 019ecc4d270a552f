#include "io/model_files.hpp"

#include "io/error.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <system_error>
#include <utility>

namespace gqmm::io {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr std::string_view index_name = "model.safetensors.index.json";
constexpr std::string_view single_name = "model.safetensors";
constexpr std::string_view suffix = ".safetensors";

/// True for the plain name of a file. A path that leads out of the folder is not one.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

/// The sorted names of what the folder holds. A link whose target is missing is included, so that the attempt to read it reports
/// the reason.
std::vector<std::string> names_in(const fs::path& folder) {
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().native());
  }
  if (error) {
    throw FileError(folder.native(), fmt::format("cannot list the folder: {}", error.message()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// True for the names that mlx-lm's pattern model*.safetensors matches.
bool is_model_file(std::string_view name) { return name.starts_with("model") && name.ends_with(suffix); }

void add(ModelFiles& model, const fs::path& path, const Metadata& metadata) { model.files.emplace_back(path, metadata); }

ModelFiles open_indexed(const fs::path& folder) {
  const fs::path index = folder / index_name;
  const auto weight_map = parse_weight_map(MappedFile::open(index)->text(), index.native());
  ModelFiles model;
  std::map<std::string, SafetensorsFile> shards;
  for (const auto& [name, file_name] : weight_map) {
    auto shard = shards.find(file_name);
    if (shard == shards.end()) {
      shard = shards.emplace(file_name, open_safetensors(folder / file_name)).first;
      add(model, folder / file_name, shard->second.metadata);
    }
    auto tensor = shard->second.tensors.extract(name);
    if (tensor.empty()) {
      throw FileError(index.native(), fmt::format("tensor {} should be in {} but is not", in_quotes(name), in_quotes(file_name)));
    }
    model.tensors.insert(std::move(tensor));
  }
  for (auto& [file_name, shard] : shards) {  // an index of the float model does not name the scales
    model.tensors.merge(shard.tensors);
  }
  return model;
}

/// Reads all the files `names`. If several files hold a tensor, that of the last file is used, and a sentence about it is
/// appended to `remark`.
ModelFiles open_all(const fs::path& folder, const std::vector<std::string>& names, std::string& remark) {
  ModelFiles model;
  std::map<std::string, std::string, std::less<>> file_of;
  std::string repeated;
  for (const std::string& name : names) {
    SafetensorsFile file = open_safetensors(folder / name);
    add(model, folder / name, file.metadata);
    for (auto& [tensor_name, tensor] : file.tensors) {
      std::string& holder = file_of[tensor_name];
      if (!holder.empty() && repeated.empty()) {
        repeated = fmt::format("; tensor {} is in {} and in {}, and that of the last file is used", in_quotes(tensor_name),
                               in_quotes(holder), in_quotes(name));
      }
      holder = name;
      model.tensors.insert_or_assign(tensor_name, std::move(tensor));
    }
  }
  remark += repeated;
  return model;
}

/// Adds the tensors of files that the index does not name, because mlx-lm reads them too. A tensor that the index names is not
/// replaced.
void add_unlisted(ModelFiles& model, const fs::path& folder, const std::vector<std::string>& names, const Notify& notify) {
  std::vector<std::string> added;
  for (const std::string& name : names) {
    const fs::path path = folder / name;
    if (std::any_of(model.files.begin(), model.files.end(), [&](const auto& file) { return file.first == path; })) {
      continue;
    }
    SafetensorsFile file = open_safetensors(path);
    const std::size_t before = model.tensors.size();
    model.tensors.merge(file.tensors);
    if (model.tensors.size() != before) {
      add(model, path, file.metadata);
      added.push_back(printable(name));
    }
  }
  if (!added.empty()) {
    notify(fmt::format("[{}] names no tensor of {}; reading what is in there all the same, as mlx-lm does",
                       printable((folder / index_name).native()), fmt::join(added, ", ")));
  }
}

/// What a folder without model*.safetensors holds instead, with the remedy. The text continues the sentence of
/// fail_without_files.
std::string what_it_holds(const std::vector<std::string>& names) {
  const auto holds = [&](std::string_view name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  const auto some_end_with = [&](std::string_view end) {
    return std::any_of(names.begin(), names.end(), [end](const std::string& name) { return name.ends_with(end); });
  };
  if (holds("adapters.safetensors") || holds("adapter_model.safetensors")) {
    return "only adapters; name the folder of the model that they belong to, or join both with `mlx_lm fuse`";
  }
  std::vector<std::string> others;
  std::copy_if(names.begin(), names.end(), std::back_inserter(others),
               [](const std::string& name) { return name.ends_with(suffix); });
  if (!others.empty()) {
    others.resize(std::min<std::size_t>(others.size(), 3));
    return fmt::format("but {}; name one file, or give them names as model*.safetensors",
                       printable(fmt::format("{}", fmt::join(others, ", "))));
  }
  if (holds("snapshots")) {
    return "but a folder \"snapshots\", as the cache of the Hugging Face hub has; name the folder inside that";
  }
  if (some_end_with(".gguf")) {
    return "but GGUF files, which only llama.cpp and its relatives read; take the model in MLX's format";
  }
  if (some_end_with(".bin") || some_end_with(".pt") || some_end_with(".pth")) {
    return "but PyTorch files; convert the model with `mlx_lm convert`";
  }
  if (some_end_with(".npz")) {
    return "but NumPy files; convert the model with `mlx_lm convert`";
  }
  return "; name a safetensors file or the folder of a model";
}

[[noreturn]] void fail_without_files(const fs::path& folder, const std::vector<std::string>& names) {
  const std::string found = what_it_holds(names);
  throw FileError(folder.native(),
                  fmt::format("holds neither {} nor {}{}{}", single_name, index_name, found.starts_with(';') ? "" : ", ", found));
}

}  // namespace

std::map<std::string, std::string, std::less<>> parse_weight_map(std::string_view text, std::string_view origin) {
  constexpr std::string_view key = "weight_map";
  const json index = parse_python_json(text, origin, {&key, 1});
  const auto found = index.is_object() ? index.find(key) : index.end();
  if (found == index.end() || !found->is_object()) {
    throw FileError(origin, "there is no JSON object \"weight_map\", which names the file of every tensor");
  }
  std::map<std::string, std::string, std::less<>> files;
  for (const auto& [name, file] : found->items()) {
    std::string_view file_name = file.is_string() ? std::string_view(file.get_ref<const std::string&>()) : std::string_view();
    while (file_name.starts_with("./")) {
      file_name.remove_prefix(2);
    }
    if (!is_plain_file_name(file_name)) {
      throw FileError(origin,
                      fmt::format("tensor {} is in {}, which is not the name of a file in the same folder", in_quotes(name),
                                  printable(file.is_string() ? in_quotes(file.get_ref<const std::string&>()) : file.dump())));
    }
    files.emplace(name, file_name);
  }
  if (files.empty()) {
    throw FileError(origin, "\"weight_map\" names no tensor");
  }
  return files;
}

ModelFiles open_model_file(const fs::path& path) {
  SafetensorsFile file = open_safetensors(path);
  ModelFiles model;
  add(model, path, file.metadata);
  model.tensors = std::move(file.tensors);
  return model;
}

ModelFiles open_model_folder(const fs::path& folder, const Notify& notify) {
  const std::vector<std::string> names = names_in(folder);
  std::vector<std::string> model_files;
  std::copy_if(names.begin(), names.end(), std::back_inserter(model_files), is_model_file);
  std::string reason = fmt::format("[{}] there is no {}", printable(folder.native()), index_name);
  if (std::binary_search(names.begin(), names.end(), index_name)) {
    std::optional<ModelFiles> indexed;
    try {
      indexed = open_indexed(folder);
    } catch (const FileError& error) {
      if (model_files.empty()) {
        throw;
      }
      reason = error.what();
    }
    if (indexed) {
      add_unlisted(*indexed, folder, model_files, notify);
      return std::move(*indexed);
    }
  } else if (model_files == std::vector<std::string>{std::string(single_name)}) {
    return open_model_file(folder / single_name);
  }
  if (model_files.empty()) {
    fail_without_files(folder, names);
  }
  std::string remark = fmt::format(
      "{}; reading {} instead, as mlx-lm does", reason,
      model_files.size() == 1 ? printable(model_files.front()) : fmt::format("{} files model*.safetensors", model_files.size()));
  ModelFiles model = open_all(folder, model_files, remark);
  notify(remark);
  return model;
}

}  // namespace gqmm::io
