#include "cases/plan.hpp"

#include "formats/registry.hpp"
#include "io/checkpoint.hpp"
#include "io/quantization_keys.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace gqmm::bench {
namespace {

namespace fs = std::filesystem;

/// The names that models have for the number of experts per token.
constexpr const char* top_keys[] = {"num_experts_per_tok",    "num_experts_per_token", "experts_per_token",
                                    "n_experts_per_tok",      "num_selected_experts",  "moe_topk",
                                    "moe_router_topk",        "top_k_experts",         "moe_k",
                                    "moe_num_active_experts", "num_activated_experts"};

/// Reads the number of experts per token from config.json, or from its part about the language model. Returns 0 if neither has
/// it.
std::int64_t experts_per_token(const nlohmann::json& config) {
  for (const char* part : io::language_model_pointers()) {
    for (const char* key : top_keys) {
      const nlohmann::json::json_pointer where(fmt::format("{}/{}", part, key));
      if (!config.contains(where) || !config.at(where).is_number()) {
        continue;
      }
      const double top = config.at(where).get<double>();
      if (top >= 1 && top <= 1e6 && top == std::floor(top)) {  // the number may be a float, because some tools write 8.0
        return static_cast<std::int64_t>(top);
      }
    }
  }
  return 0;
}

/// Returns the last part of a name: "gate_proj" for "model.layers.0.mlp.switch_mlp.gate_proj".
std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }

bool same_work(const CheckpointLayer& a, const CheckpointLayer& b) {
  return a.shape.experts == b.shape.experts && a.shape.N == b.shape.N && a.shape.K == b.shape.K && a.mode == b.mode &&
         a.bits == b.bits && a.group_size == b.group_size && a.shape.row_per_pair == b.shape.row_per_pair &&
         a.shape.whole == b.shape.whole;
}

}  // namespace

std::vector<CheckpointLayer> layers_of_checkpoint(const fs::path& path, std::int64_t top) {
  const io::Checkpoint checkpoint = io::open_checkpoint(path);
  std::vector<CheckpointLayer> layers;
  const std::string model = fs::path(fs::absolute(path).lexically_normal()).stem().string();
  for (const io::QuantizedTensor& tensor : io::quantized_tensors(checkpoint)) {
    if (!tensor.is_expert_tensor()) {
      continue;
    }
    CheckpointLayer layer;
    const std::string projection = last_part(tensor.name);
    const bool down = projection.find("down") != std::string::npos;
    layer.shape = {fmt::format("{}/{}", model, projection), tensor.experts, tensor.N, tensor.K, top, down};
    layer.mode = tensor.weights.mode;
    layer.bits = *tensor.weights.bits;
    layer.group_size = *tensor.weights.group_size;
    if (std::none_of(layers.begin(), layers.end(), [&](const CheckpointLayer& other) { return same_work(layer, other); })) {
      layers.push_back(layer);
    }
  }
  if (layers.empty()) {
    throw std::invalid_argument(
        fmt::format("[bench] {} holds no quantized tensors with several experts; give a shape with --experts, --n and --k, or "
                    "`gqmm quantize` its weights",
                    path.string()));
  }
  const std::int64_t experts_used = top > 0 ? top : experts_per_token(checkpoint.config);
  if (experts_used <= 0) {
    throw std::invalid_argument(fmt::format(
        "[bench] {} does not say how many experts a token uses (num_experts_per_tok in config.json); give --top", path.string()));
  }
  for (CheckpointLayer& layer : layers) {
    layer.shape.top = std::min(experts_used, layer.shape.experts);
  }
  return layers;
}

std::vector<Case> cases_of(const CaseGrid& grid) {
  std::vector<Case> cases;
  for (const CheckpointLayer& layer : grid.layers) {
    for (const std::string& isa : grid.isas) {
      for (const int threads : grid.threads) {
        for (const Dtype dtype : grid.dtypes) {
          for (const Precision precision : grid.precisions) {
            for (const std::int64_t tokens : grid.tokens) {
              for (const ExpertChoice routing : grid.routings) {
                cases.push_back({layer.shape, tokens, layer.mode, layer.bits, layer.group_size, grid.transpose, dtype, precision,
                                 grid.packed, routing, threads, isa});
              }
            }
          }
        }
      }
    }
  }
  return cases;
}

std::vector<PlannedCase> only(const std::vector<PlannedCase>& cases, const std::vector<std::string>& texts) {
  std::vector<PlannedCase> found;
  for (const PlannedCase& planned : cases) {
    const std::string name = planned.settings.name();
    if (std::all_of(texts.begin(), texts.end(), [&](const std::string& text) { return name.find(text) != std::string::npos; })) {
      found.push_back(planned);
    }
  }
  if (found.empty()) {
    throw std::invalid_argument(fmt::format("[bench] none of the {} cases has '{}' in its name; --list shows their names",
                                            cases.size(), fmt::join(texts, "' and '")));
  }
  return found;
}

}  // namespace gqmm::bench
