#include "peers/peers.hpp"

#include "carried_files.hpp"
#include "cases/routing.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>

namespace gqmm::bench {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

json description_of(const Case& settings, const std::vector<std::string>& wanted, double seconds, std::size_t pool_bytes) {
  const bool learned = settings.routing == ExpertChoice::learned;
  const SwiGLU activation = settings.shape.activation();
  return {
      {"whole", settings.shape.whole},
      {"shared_experts", settings.shape.shared_experts},
      {"has_biases", settings.shape.gpt_oss},
      {"activation",
       {{"alpha", activation.alpha}, {"limit", activation.limit ? json(*activation.limit) : json()}, {"bias", activation.bias}}},
      {"dtype", gqmm::name_of(settings.dtype)},
      {"precision", gqmm::name_of(settings.precision)},
      {"isa", settings.isa},
      {"pool_bytes", settings.cached ? 0 : pool_bytes},
      {"experts", settings.shape.experts},
      {"n", settings.shape.N},
      {"k", settings.shape.K},
      {"top", settings.shape.top},
      {"row_per_pair", settings.shape.row_per_pair},
      {"tokens", settings.tokens},
      {"mode", gqmm::name_of(settings.mode)},
      {"bits", settings.bits},
      {"group_size", settings.group_size},
      {"transpose", settings.transpose},
      {"routing", name_of(settings.routing)},
      {"popularity", learned ? learned_popularity(settings.shape.experts, settings.shape.top) : std::vector<double>{}},
      {"threads", settings.threads},
      {"peers", wanted},
      {"seconds", seconds}};
}

/// Returns the command line that runs the peers' process. Its modules are arguments.
std::vector<std::string> command_for(const std::string& python) {
  std::vector<std::string> command = {python, "-c", std::string(peers_start)};
  for (const CarriedModule& module : peers_modules) {
    command.emplace_back(module.name);
    command.emplace_back(module.text);
  }
  return command;
}

bool is_program(const fs::path& path) { return access(path.c_str(), X_OK) == 0 && !fs::is_directory(path); }

}  // namespace

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

PeerProcess::PeerProcess(const PeerOptions& options, const Case& settings, const std::vector<std::string>& wanted, double seconds,
                         std::size_t pool_bytes) {
  if (options.python.empty() || wanted.empty()) {
    return;
  }
  process_ = std::make_unique<tools::ChildProcess>(command_for(options.python));
  json answer;
  try {
    answer = ask({{"case", description_of(settings, wanted, seconds, pool_bytes)}});
  } catch (const std::runtime_error&) {
    answer = {{"error", "the process ended without an answer"}};
  }
  if (answer.contains("error")) {  // the report says which libraries could not be set up, and the benchmark goes on
    const std::string why = answer.at("error");
    peers_.push_back({"other libraries", "", "", fmt::format("not measured by {}: {}", options.python, why), 0});
    return;
  }
  for (const json& peer : answer.at("peers")) {
    peers_.push_back({peer.at("name"), peer.at("version"), peer.at("computes"), peer.at("skipped"), peer.at("error")});
  }
}

double PeerProcess::measure(const Peer& peer) {
  const json answer = ask({{"run", peer.name}});
  if (answer.contains("error")) {
    throw std::runtime_error(fmt::format("[bench] the peers' process says: {}", answer.at("error").get<std::string>()));
  }
  return answer.at("seconds");
}

json PeerProcess::ask(const json& request) {
  process_->write_line(request.dump());
  return json::parse(process_->read_line());
}

}  // namespace gqmm::bench
