// Where a command's figures go: the standard output, and files.
#pragma once

#include <functional>
#include <iosfwd>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace gqmm::bench {

struct Outputs {
  std::string format = "table";
  std::string json;
  std::string markdown;
  std::string results;
  std::string revision;  ///< of the library's sources, as reports name it
};

/// --format, one of `formats`, --json, --markdown, --results and --revision.
void add_output_options(CLI::App& command, Outputs& outputs, const std::vector<std::string>& formats);

/// Throws std::runtime_error if a file that write_outputs would write cannot be: to be called before figures are measured for it.
/// Makes their folders, and leaves files as they are.
void check_outputs(const Outputs& outputs, const std::string& stem);

/// Calls `write(stream, format)` for each place that is asked for. `stem` names the files of --results. Throws std::runtime_error
/// if a file cannot be written.
void write_outputs(const Outputs& outputs, const std::string& stem,
                   const std::function<void(std::ostream&, const std::string&)>& write);

}  // namespace gqmm::bench
