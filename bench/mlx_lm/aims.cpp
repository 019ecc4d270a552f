#include "mlx_lm/aims.hpp"

#include <map>
#include <utility>

namespace gqmm::bench {
namespace {

using Aims = std::map<std::pair<std::string, std::string>, double>;

const Aims beside_stock = {{{"prompt of 64", "gqmm float32"}, 20},
                           {{"prompt of 64", "gqmm bfloat16"}, 150},
                           {{"decode after 64", "gqmm float32"}, 15},
                           {{"decode after 64", "gqmm bfloat16"}, 100}};

const Aims beside_llama = {{{"prompt of 64", "gqmm bfloat16"}, 1.25},
                           {{"prompt of 512", "gqmm bfloat16"}, 1.7},
                           {{"prompt of 2048", "gqmm bfloat16"}, 1.8},
                           {{"prompt of 8192", "gqmm bfloat16"}, 1.7},
                           {{"prompt of 64", "gqmm bfloat16 fast"}, 1.7},
                           {{"prompt of 512", "gqmm bfloat16 fast"}, 2.6},
                           {{"prompt of 2048", "gqmm bfloat16 fast"}, 2.7},
                           {{"prompt of 8192", "gqmm bfloat16 fast"}, 2.1},
                           {{"prompt of 64", "gqmm float32"}, 1.0},
                           {{"prompt of 512", "gqmm float32"}, 1.25},
                           {{"prompt of 2048", "gqmm float32"}, 1.3},
                           {{"prompt of 8192", "gqmm float32"}, 1.2},
                           {{"decode after 64", "gqmm bfloat16"}, 1.2},
                           {{"decode after 512", "gqmm bfloat16"}, 1.5},
                           {{"decode after 2048", "gqmm bfloat16"}, 2.3},
                           {{"decode after 8192", "gqmm bfloat16"}, 3},
                           {{"decode after 64", "gqmm bfloat16 fast"}, 1.2},
                           {{"decode after 512", "gqmm bfloat16 fast"}, 1.5},
                           {{"decode after 2048", "gqmm bfloat16 fast"}, 2.3},
                           {{"decode after 8192", "gqmm bfloat16 fast"}, 3},
                           {{"decode after 64", "gqmm float32"}, 1.1},
                           {{"decode after 512", "gqmm float32"}, 1.3},
                           {{"decode after 2048", "gqmm float32"}, 1.9},
                           {{"decode after 8192", "gqmm float32"}, 2.2},
                           {{"8 requests after 512", "gqmm bfloat16"}, 1.4},
                           {{"8 requests after 512", "gqmm bfloat16 fast"}, 1.6},
                           {{"8 requests after 512", "gqmm float32"}, 1.1}};

std::optional<Aim> aim_with_linear_layers(const std::string& case_name) {
  if (case_name == "prompt of 512" || case_name == "prompt of 2048") {
    return Aim{.times = 20};
  }
  return case_name.starts_with("decode after ") ? std::optional(Aim{.of_dram = 0.8}) : std::nullopt;
}

}  // namespace

std::optional<Aim> aim_of(std::int64_t layers, bool has_linear_layers, const std::string& case_name, const std::string& side) {
  if (has_linear_layers) {
    return side.starts_with("gqmm ") ? aim_with_linear_layers(case_name) : std::nullopt;
  }
  const Aims& aims = layers == 1 ? beside_stock : beside_llama;
  const auto found = aims.find({case_name, side});
  if (found == aims.end()) {
    return std::nullopt;
  }
  Aim aim = {.times = found->second, .other = layers == 1 ? Who::stock : Who::llama};
  if (layers > 1 && (case_name == "decode after 64" || case_name == "8 requests after 512")) {
    aim.of_dram = 0.75;  // nearly all of their bytes are weights
  }
  return aim;
}

}  // namespace gqmm::bench
