#include "report/outputs.hpp"

#include "io/error.hpp"
#include "io/pending_file.hpp"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <span>
#include <sstream>
#include <system_error>
#include <utility>

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

/// A file that replaces the file of its path when it is published. If it is destroyed before that, it leaves nothing.
struct PendingOutput {
  io::OutputPath target;
  io::PendingFile file;
};

/// Makes the file's folder if there is none.
PendingOutput pending(const fs::path& path) {
  io::OutputPath target = io::inspect_output(path);
  const fs::path folder = io::folder_of(target.path);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    throw io::FileError(path.native(), io::system_error_text("cannot create its folder", error.value()));
  }
  return {std::move(target), io::PendingFile(folder, path.native())};
}

}  // namespace

void add_output_options(CLI::App& command, Outputs& outputs, const std::vector<std::string>& formats) {
  const std::string output = "Output";
  command.add_option("--format", outputs.format, "format of the standard output")
      ->check(CLI::IsMember(formats))
      ->group(output)
      ->capture_default_str();
  command.add_option("--json", outputs.json, "write the figures to this file too")->group(output);
  command.add_option("--markdown", outputs.markdown, "write the tables to this file too")->group(output);
  command.add_option("--results", outputs.results, "write both into this folder, named after suite and machine")->group(output);
  command.add_option("--revision", outputs.revision, "revision of gqmm's sources, for the report; ./dev bench gives the commit")
      ->group(output);
}

void check_outputs(const Outputs& outputs, const std::string& stem) {
  for (const OutputFile& each : files_of(outputs, stem)) {
    pending(each.path);
  }
}

void write_outputs(const Outputs& outputs, const std::string& stem,
                   const std::function<void(std::ostream&, const std::string&)>& write) {
  write(std::cout, outputs.format);
  std::vector<PendingOutput> written;
  for (const OutputFile& each : files_of(outputs, stem)) {
    std::ostringstream text;
    write(text, each.format);
    written.push_back(pending(each.path));
    written.back().file.write_at(0, std::as_bytes(std::span(text.view())));
  }
  for (PendingOutput& each : written) {
    each.file.publish(each.target, true);
  }
}

}  // namespace gqmm::bench
