// A Python process that runs a package which the program carries. The two sides exchange JSON, one object per line.
#pragma once

#include "carried_files.hpp"
#include "tools/child_process.hpp"

#include <nlohmann/json_fwd.hpp>

#include <span>
#include <string>
#include <vector>

namespace gqmm::bench {

class PythonProcess {
 public:
  /// Starts `package`.main with this interpreter. `launcher` is a command that starts the interpreter, such as mpiexec with its
  /// options; without one, this process does.
  PythonProcess(const std::string& python, const std::string& package, std::span<const CarriedModule> modules,
                std::vector<std::string> launcher = {});

  /// Sends a request and waits for its answer, which may be an object with the member "error". Throws std::runtime_error if the
  /// process has ended.
  [[nodiscard]] nlohmann::ordered_json answer(const nlohmann::ordered_json& request);
  /// The same, but throws std::runtime_error with `context` before the text of an error.
  nlohmann::ordered_json ask(const nlohmann::ordered_json& request, const std::string& context);

 private:
  tools::ChildProcess process_;
};

/// Finds the interpreter. `request` is the value of the option: a path, "none" or "auto". "auto" stands for .venv/bin/python in
/// this folder, or the interpreter of the active environment. Returns an empty text if there is none.
std::string find_python(const std::string& request, const std::string& option);

}  // namespace gqmm::bench
