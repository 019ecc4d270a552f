// The outputs of a command's figures: the standard output, and files.
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
  std::string revision;  ///< the revision of the library's sources, for the report
};

/// Adds the options --format (one of `formats`), --json, --markdown, --results and --revision.
void add_output_options(CLI::App& command, Outputs& outputs, const std::vector<std::string>& formats);

/// Throws io::FileError if write_outputs could not write one of its files. Call it before the measurements, so that no figures
/// are lost. It makes missing folders, and does not change files.
void check_outputs(const Outputs& outputs, const std::string& stem);

/// Calls `write(stream, format)` for each output that the options ask for. `stem` is the name of the files of --results. A file
/// is whole or absent: it gets its name, and replaces an older file, after all of it is on the disk. Throws io::FileError if a
/// file cannot be written. Then all files are as they were, unless only the last step failed.
void write_outputs(const Outputs& outputs, const std::string& stem,
                   const std::function<void(std::ostream&, const std::string&)>& write);

}  // namespace gqmm::bench
