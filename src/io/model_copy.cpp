#include "io/model_copy.hpp"

#include "io/error.hpp"
#include "io/file_kind.hpp"
#include "io/mapped_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

namespace gqmm::io {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view template_folder = "additional_chat_templates";

/// Returns where the JSON value ends that begins at `at`. The text must be valid JSON.
std::size_t end_of_value(std::string_view text, std::size_t at) {
  int depth = 0;
  for (bool in_string = false; at < text.size(); ++at) {
    const char c = text[at];
    if (in_string) {
      at += c == '\\' ? 1 : 0;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if ((c == '}' || c == ']' || c == ',') && depth == 0) {
      break;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return at;
}

}  // namespace

std::vector<std::string> files_beside_weights(const fs::path& folder) {
  constexpr std::string_view weights[] = {".safetensors", ".safetensors.index.json",
                                          ".bin",         ".bin.index.json",
                                          ".pt",          ".pth",
                                          ".ckpt",        ".gguf",
                                          ".h5",          ".msgpack",
                                          ".onnx",        ".npz"};
  const auto is_kept = [&](const fs::path& path) {
    const std::string name = path.filename();
    return !name.starts_with('.') && name != "config.json" && name != "hf_quant_config.json" &&
           std::none_of(std::begin(weights), std::end(weights), [&](std::string_view end) { return name.ends_with(end); });
  };
  std::vector<std::string> names;
  const auto add = [&](const fs::path& from, const std::string& prefix) {
    for (const auto& entry : fs::directory_iterator(from)) {
      if (!is_kept(entry.path())) {
        continue;
      }
      std::error_code error;
      const fs::file_status status = fs::status(entry.path(), error);
      if (!fs::exists(status)) {
        throw FileError(entry.path().native(), "is a link that leads to no file; complete the folder, or remove the link");
      }
      if (fs::is_regular_file(status)) {
        const auto file = MappedFile::open(entry.path());
        if (is_lfs_pointer(file->text())) {
          throw FileError(entry.path().native(),
                          fmt::format("{}; or remove it, if the model does without", describe_other_kind(file->text())));
        }
        names.push_back(prefix + entry.path().filename().native());
      }
    }
  };
  add(folder, "");
  if (std::error_code error; fs::is_directory(folder / template_folder, error)) {
    add(folder / template_folder, std::string(template_folder) + "/");
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string with_quantization(std::string_view text, std::string_view quantization) {
  std::string members;
  std::size_t at = text.find('{') + 1;
  while (at < text.size()) {
    const std::size_t end = end_of_value(text, at);
    const std::string_view member = text.substr(at, end - at);
    const std::size_t quote = member.find('"');
    if (quote != std::string_view::npos) {
      const std::string_view key = member.substr(quote + 1, member.find('"', quote + 1) - quote - 1);
      if (key != "quantization" && key != "quantization_config") {
        members += member.substr(quote, member.find_last_not_of(" \t\r\n") + 1 - quote);
        members += ",\n    ";
      }
    }
    if (end >= text.size() || text[end] == '}') {
      break;
    }
    at = end + 1;
  }
  return fmt::format("{{\n    {}\"quantization\": {},\n    \"quantization_config\": {}\n}}\n", members, quantization,
                     quantization);
}

}  // namespace gqmm::io
