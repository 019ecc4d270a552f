#include "plan.hpp"

#include "formats/registry.hpp"
#include "io/checkpoint.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace gqmm::bench {
namespace {

namespace fs = std::filesystem;

std::int64_t experts_per_token(const fs::path& path) {
  const fs::path config = (fs::is_directory(path) ? path : path.parent_path()) / "config.json";
  if (!fs::exists(config)) {
    return 0;
  }
  const auto file = io::MappedFile::open(config);
  const nlohmann::json document = io::parse_json(file->text(), config.string());
  for (const nlohmann::json* settings : {&document, document.contains("text_config") ? &document["text_config"] : nullptr}) {
    if (settings == nullptr || !settings->is_object()) {
      continue;
    }
    const auto found = settings->find("num_experts_per_tok");
    if (found != settings->end() && found->is_number_integer()) {
      return found->get<std::int64_t>();
    }
  }
  return 0;
}

/// "model.layers.0.mlp.switch_mlp.gate_proj" -> "gate_proj".
std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }

bool same_work(const CheckpointLayer& a, const CheckpointLayer& b) {
  return a.shape.experts == b.shape.experts && a.shape.N == b.shape.N && a.shape.K == b.shape.K && a.mode == b.mode &&
         a.bits == b.bits && a.group_size == b.group_size && a.shape.row_per_pair == b.shape.row_per_pair;
}

const std::string gate = "qwen3-30b-a3b/gate";

Case base_case(const std::string& isa, std::int64_t tokens) {
  Case settings;
  settings.shape = shape_from_name(gate);
  settings.tokens = tokens;
  settings.isa = isa;
  return settings;
}

/// The types and precisions whose speed differs: 2 slices, 3 and 1.
struct Arithmetic {
  Dtype dtype;
  Precision precision;
};
constexpr Arithmetic arithmetics[] = {{Dtype::bfloat16, Precision::standard},  //
                                      {Dtype::float32, Precision::standard},   //
                                      {Dtype::bfloat16, Precision::fast}};

std::vector<PlannedCase> report_suite(const std::string& isa, int threads) {
  std::vector<PlannedCase> cases;
  std::vector<int> teams = {1};
  if (threads > 1) {
    teams.push_back(threads);
  }
  for (const int team : teams) {
    const auto add = [&](std::int64_t tokens, Routing routing, Arithmetic arithmetic, bool packed,
                         std::vector<std::string> peers) {
      Case settings = base_case(isa, tokens);
      settings.routing = routing;
      settings.dtype = arithmetic.dtype;
      settings.precision = arithmetic.precision;
      settings.packed = packed;
      settings.threads = team;
      cases.push_back({settings, std::move(peers)});
    };
    for (const Routing routing : {Routing::balanced, Routing::uniform}) {
      for (const bool packed : {false, true}) {
        for (const Arithmetic& arithmetic : arithmetics) {
          // Dense products beside the one case that computes in the same type and order of rows.
          const bool beside_dense = routing == Routing::balanced && !packed && arithmetic.precision == Precision::standard;
          add(512, routing, arithmetic, packed, beside_dense ? std::vector<std::string>{"torch"} : std::vector<std::string>{});
        }
      }
    }
    for (const Arithmetic& arithmetic : arithmetics) {
      add(1, Routing::uniform, arithmetic, false, {});
    }
    add(8, Routing::uniform, arithmetics[1], false, {"mlx gather_qmm float32"});
    add(8, Routing::uniform, arithmetics[0], false, {"mlx gather_qmm bfloat16"});
  }
  return cases;
}

std::vector<PlannedCase> format_suite(const std::string& isa) {
  std::vector<PlannedCase> cases;
  for (const std::int64_t tokens : {std::int64_t{512}, std::int64_t{1}}) {
    for (const Format& format : formats()) {
      for (const int group_size : format.group_sizes) {
        Case settings = base_case(isa, tokens);
        settings.mode = format.mode;
        settings.bits = format.bits;
        settings.group_size = group_size;
        cases.push_back({settings, {}});
      }
    }
  }
  return cases;
}

std::vector<PlannedCase> shape_suite(const std::string& isa) {
  std::vector<PlannedCase> cases;
  for (const LayerShape& shape : known_shapes()) {
    for (const std::int64_t tokens : {1, 4, 8, 64, 512}) {
      Case settings = base_case(isa, tokens);
      settings.shape = shape;
      cases.push_back({settings, {}});
    }
  }
  return cases;
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
    layer.mode = tensor.format->mode;
    layer.bits = tensor.format->bits;
    layer.group_size = tensor.group_size;
    if (std::none_of(layers.begin(), layers.end(), [&](const CheckpointLayer& other) { return same_work(layer, other); })) {
      layers.push_back(layer);
    }
  }
  if (layers.empty()) {
    throw std::invalid_argument(fmt::format("[bench] {} holds no quantized tensors with several experts", path.string()));
  }
  const std::int64_t experts_used = top > 0 ? top : experts_per_token(path);
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
              cases.push_back({layer.shape, tokens, layer.mode, layer.bits, layer.group_size, grid.transpose, dtype, precision,
                               grid.packed, grid.routing, threads, isa});
            }
          }
        }
      }
    }
  }
  return cases;
}

std::vector<PlannedCase> suite(std::string_view name, const std::string& isa, int threads) {
  if (name == "report") {
    return report_suite(isa, threads);
  }
  if (name == "formats") {
    return format_suite(isa);
  }
  if (name == "shapes") {
    return shape_suite(isa);
  }
  throw std::invalid_argument(fmt::format("[bench] suite '{}' is unknown; use report, formats or shapes", name));
}

}  // namespace gqmm::bench
