#include "io/checkpoint.hpp"

#include "io/error.hpp"
#include "io/mapped_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <system_error>
#include <utility>

namespace gqmm::io {
namespace {

namespace fs = std::filesystem;

/// The name of a model, OWNER/NAME, if `name` looks like such a name or like an address on the Hugging Face hub. Otherwise the
/// result is empty.
std::string hub_name(std::string name) {
  for (const std::string_view address : {"https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/", "hf://"}) {
    if (name.starts_with(address)) {
      name.erase(0, address.size());
      const std::size_t end = name.find('/', name.find('/') + 1);  // the second slash of OWNER/NAME/tree/main
      name.erase(std::min(end, name.size()));
      break;
    }
  }
  while (name.ends_with('/')) {
    name.pop_back();
  }
  const auto is_name_character = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.';
  };
  const std::size_t slash = name.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == name.size() || name.front() == '.' || name.front() == '~') {
    return "";
  }
  const bool plain = std::all_of(name.begin(), name.begin() + static_cast<std::ptrdiff_t>(slash), is_name_character) &&
                     std::all_of(name.begin() + static_cast<std::ptrdiff_t>(slash) + 1, name.end(), is_name_character);
  return plain && !name.ends_with(".safetensors") ? name : "";
}

nlohmann::json read_config(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error)) ? parse_model_config(MappedFile::open(path)->text(), path.native())
                                                     : nlohmann::json();
}

/// The settings in the metadata of the first file that has such settings.
FoundQuantization find_in_metadata(const ModelFiles& model) {
  FoundQuantization result;
  for (const auto& [path, metadata] : model.files) {
    const auto settings = metadata.find("quantization");
    if (settings == metadata.end()) {
      continue;
    }
    FoundQuantization found = find_quantization_in_metadata(settings->second, path.native());
    if (found.config) {
      return found;
    }
    if (result.foreign.empty()) {
      result = std::move(found);
    }
  }
  return result;
}

/// Finds the settings. Those of the metadata count before those of config.json.
void find_settings(Checkpoint& checkpoint, const ModelFiles& model, const fs::path& folder) {
  FoundQuantization in_metadata;
  // Wrong metadata are an error only if config.json has no settings, because mlx-lm does not read metadata.
  std::optional<FileError> wrong_metadata;
  try {
    in_metadata = find_in_metadata(model);
  } catch (const FileError& error) {
    wrong_metadata = error;
  }
  if (in_metadata.config) {
    checkpoint.quantization = std::move(in_metadata.config);
    return;
  }
  FoundQuantization in_config;
  if (checkpoint.config.is_object()) {
    in_config = find_quantization(checkpoint.config, (folder / "config.json").native());
  }
  checkpoint.quantization = std::move(in_config.config);
  if (checkpoint.quantization) {
    return;
  }
  if (wrong_metadata) {
    throw FileError(*wrong_metadata);
  }
  checkpoint.foreign_settings = in_config.foreign.empty() ? in_metadata.foreign : in_config.foreign;
}

}  // namespace

std::string hub_remedy(const fs::path& path) {
  std::error_code error;
  const fs::path parent = path.parent_path();
  if (fs::exists(fs::symlink_status(path, error)) || (!parent.empty() && fs::exists(parent, error))) {
    return "";
  }
  const std::string name = hub_name(path.native());
  return name.empty() ? ""
                      : fmt::format(
                            "if this is a model on the Hugging Face hub, download it with `hf download {} --local-dir FOLDER` "
                            "and name that folder",
                            name);
}

void print_notice(std::string_view sentence) { fmt::print(stderr, "gqmm: {}\n", sentence); }

Checkpoint open_checkpoint(const fs::path& path, const Notify& notify) {
  if (const std::string remedy = hub_remedy(path); !remedy.empty()) {
    throw FileError(path.native(), "there is no such file or folder; " + remedy);
  }
  Checkpoint checkpoint;
  checkpoint.path = path;
  std::error_code error;
  const bool is_folder = fs::is_directory(path, error);
  const fs::path folder = is_folder ? path : path.parent_path();
  ModelFiles model = is_folder ? open_model_folder(folder, notify) : open_model_file(path);
  checkpoint.config = read_config(folder);
  for (const auto& [file, metadata] : model.files) {
    checkpoint.files.push_back(file);
    checkpoint.metadata.insert(metadata.begin(), metadata.end());
  }
  checkpoint.tensors = std::move(model.tensors);
  find_settings(checkpoint, model, folder);
  return checkpoint;
}

}  // namespace gqmm::io
