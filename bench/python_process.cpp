#include "python_process.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <utility>
#include <vector>

namespace gqmm::bench {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;

/// Returns the command line that runs a package. Its modules are arguments.
std::vector<std::string> command_for(const std::string& python, const std::string& package,
                                     std::span<const CarriedModule> modules, std::vector<std::string> command) {
  command.insert(command.end(), {python, "-c", std::string(python_start), package});
  for (const CarriedModule& module : modules) {
    command.emplace_back(module.name);
    command.emplace_back(module.text);
  }
  return command;
}

bool is_program(const fs::path& path) { return access(path.c_str(), X_OK) == 0 && !fs::is_directory(path); }

}  // namespace

PythonProcess::PythonProcess(const std::string& python, const std::string& package, std::span<const CarriedModule> modules,
                             std::vector<std::string> launcher)
    : process_(command_for(python, package, modules, std::move(launcher))) {}

json PythonProcess::answer(const json& request) {
  process_.write_line(request.dump());
  return json::parse(process_.read_line());
}

json PythonProcess::ask(const json& request, const std::string& context) {
  json result = answer(request);
  if (result.contains("error")) {
    throw std::runtime_error(fmt::format("{}{}", context, result.at("error").get<std::string>()));
  }
  return result;
}

std::string find_python(const std::string& request, const std::string& option) {
  if (request == "none") {
    return {};
  }
  if (request != "auto") {
    if (!is_program(request)) {
      throw std::invalid_argument(
          fmt::format("[bench] {} = '{}' is not a program; give the path of a Python interpreter", option, request));
    }
    return request;
  }
  if (const fs::path local = fs::path(".venv") / "bin" / "python"; is_program(local)) {
    return local;
  }
  const char* environment = std::getenv("VIRTUAL_ENV");
  if (environment != nullptr && is_program(fs::path(environment) / "bin" / "python")) {
    return fs::path(environment) / "bin" / "python";
  }
  return {};
}

}  // namespace gqmm::bench
