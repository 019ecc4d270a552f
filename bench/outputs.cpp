#include "outputs.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <stdexcept>

namespace gqmm::bench {

namespace fs = std::filesystem;

void add_output_options(CLI::App& command, Outputs& outputs, const std::vector<std::string>& formats) {
  const std::string output = "Output";
  command.add_option("--format", outputs.format, "of the standard output")
      ->check(CLI::IsMember(formats))
      ->group(output)
      ->capture_default_str();
  command.add_option("--json", outputs.json, "write the figures to this file too")->group(output);
  command.add_option("--markdown", outputs.markdown, "write the tables to this file too")->group(output);
  command.add_option("--results", outputs.results, "write both into this folder, named after suite and machine")->group(output);
}

void write_outputs(const Outputs& outputs, const std::string& stem,
                   const std::function<void(std::ostream&, const std::string&)>& write) {
  const auto write_file = [&](const fs::path& path, const std::string& format) {
    if (path.has_parent_path()) {
      fs::create_directories(path.parent_path());
    }
    std::ofstream file(path);
    write(file, format);
    file.close();
    if (!file) {
      throw std::runtime_error(fmt::format("[bench] cannot write {}", path.string()));
    }
  };
  write(std::cout, outputs.format);
  if (!outputs.json.empty()) {
    write_file(outputs.json, "json");
  }
  if (!outputs.markdown.empty()) {
    write_file(outputs.markdown, "markdown");
  }
  if (!outputs.results.empty()) {
    const std::string path = (fs::path(outputs.results) / stem).string();
    write_file(path + ".json", "json");
    write_file(path + ".md", "markdown");
  }
}

}  // namespace gqmm::bench
