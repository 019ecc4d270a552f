#include "peers/peers.hpp"

#include "carried_files.hpp"
#include "cases/routing.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <stdexcept>

namespace gqmm::bench {
namespace {

using json = nlohmann::ordered_json;

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

}  // namespace

PeerProcess::PeerProcess(const PeerOptions& options, const Case& settings, const std::vector<std::string>& wanted, double seconds,
                         std::size_t pool_bytes) {
  if (options.python.empty() || wanted.empty()) {
    return;
  }
  process_ = std::make_unique<PythonProcess>(options.python, "peers", peers_modules);
  json answer;
  try {
    answer = process_->answer({{"case", description_of(settings, wanted, seconds, pool_bytes)}});
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
  return process_->ask({{"run", peer.name}}, "[bench] the peers' process says: ").at("seconds");
}

}  // namespace gqmm::bench
