#include "outputs.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <system_error>

namespace gqmm::bench {
namespace {

namespace fs = std::filesystem;

struct OutputFile {
  fs::path path;
  std::string format;
};

std::vector<OutputFile> files_of(const Outputs& outputs, const std::string& stem) {
  std::vector<OutputFile> files;
  if (!outputs.json.empty()) {
    files.push_back({outputs.json, "json"});
  }
  if (!outputs.markdown.empty()) {
    files.push_back({outputs.markdown, "markdown"});
  }
  if (!outputs.results.empty()) {
    const std::string path = (fs::path(outputs.results) / stem).string();
    files.push_back({path + ".json", "json"});
    files.push_back({path + ".md", "markdown"});
  }
  return files;
}

/// Makes the file's folder if need be.
std::ofstream open(const fs::path& path, std::ios::openmode mode) {
  std::error_code error;
  if (path.has_parent_path()) {
    fs::create_directories(path.parent_path(), error);
  }
  std::ofstream file(path, mode);
  if (error || !file) {
    const std::string why = error ? error.message() : std::system_category().message(errno);
    throw std::runtime_error(fmt::format("[bench] cannot write {}: {}", path.string(), why));
  }
  return file;
}

}  // namespace

void add_output_options(CLI::App& command, Outputs& outputs, const std::vector<std::string>& formats) {
  const std::string output = "Output";
  command.add_option("--format", outputs.format, "of the standard output")
      ->check(CLI::IsMember(formats))
      ->group(output)
      ->capture_default_str();
  command.add_option("--json", outputs.json, "write the figures to this file too")->group(output);
  command.add_option("--markdown", outputs.markdown, "write the tables to this file too")->group(output);
  command.add_option("--results", outputs.results, "write both into this folder, named after suite and machine")->group(output);
  command.add_option("--revision", outputs.revision, "of gqmm's sources, for the report; ./dev bench gives the commit")
      ->group(output);
}

void check_outputs(const Outputs& outputs, const std::string& stem) {
  for (const OutputFile& each : files_of(outputs, stem)) {
    const bool existed = fs::exists(fs::symlink_status(each.path));
    open(each.path, std::ios::app);
    if (!existed) {
      fs::remove(each.path);
    }
  }
}

void write_outputs(const Outputs& outputs, const std::string& stem,
                   const std::function<void(std::ostream&, const std::string&)>& write) {
  write(std::cout, outputs.format);
  for (const OutputFile& each : files_of(outputs, stem)) {
    std::ofstream file = open(each.path, std::ios::trunc);
    write(file, each.format);
    file.close();
    if (!file) {
      throw std::runtime_error(fmt::format("[bench] cannot write {}", each.path.string()));
    }
  }
}

}  // namespace gqmm::bench
