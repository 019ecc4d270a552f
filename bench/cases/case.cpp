#include "cases/case.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace gqmm::bench {
namespace {

// The expert layers of public models, from their configurations.
const LayerShape shapes[] = {
    {"qwen3-30b-a3b/gate", 128, 768, 2048, 8, false},  //
    {"qwen3-30b-a3b/down", 128, 2048, 768, 8, true},   //
    {"gpt-oss-20b", 32, 2880, 2880, 4, false},         //
    {"mixtral-8x7b", 8, 14336, 4096, 2, false},        //
    {"deepseek-v3", 256, 2048, 7168, 8, false},        //
};

const LayerShape layers[] = {
    {"qwen3-30b-a3b/layer", 128, 768, 2048, 8, false, true, false},
    {"gpt-oss-20b/layer", 32, 2880, 2880, 4, false, true, true},
    {"deepseek-v3/layer", 256, 2048, 7168, 8, false, true, false, 1},
};

}  // namespace

SwiGLU LayerShape::activation() const { return gpt_oss ? SwiGLU{.alpha = 1.702F, .limit = 7.0F, .bias = 1.0F} : SwiGLU{}; }

std::span<const LayerShape> known_shapes() { return shapes; }
std::span<const LayerShape> known_layers() { return layers; }

const LayerShape& shape_from_name(std::string_view name) {
  std::string names;
  for (const std::span<const LayerShape> known : {known_shapes(), known_layers()}) {
    for (const LayerShape& shape : known) {
      if (shape.name == name) {
        return shape;
      }
      names += fmt::format("{}{}", names.empty() ? "" : ", ", shape.name);
    }
  }
  throw std::invalid_argument(
      fmt::format("[bench] shape '{}' is unknown; use one of {}, a checkpoint, or --experts, --n, --k, --top", name, names));
}

std::string_view name_of(ExpertChoice routing) {
  switch (routing) {
    case ExpertChoice::balanced: return "balanced";
    case ExpertChoice::half: return "half";
    case ExpertChoice::learned: return "learned";
    case ExpertChoice::one: return "one";
    case ExpertChoice::uniform: break;
  }
  return "uniform";
}

ExpertChoice expert_choice_from_name(std::string_view name) {
  for (const ExpertChoice routing :
       {ExpertChoice::uniform, ExpertChoice::balanced, ExpertChoice::learned, ExpertChoice::half, ExpertChoice::one}) {
    if (name == name_of(routing)) {
      return routing;
    }
  }
  throw std::invalid_argument(
      fmt::format("[bench] routing = '{}' is unknown; use uniform, balanced, learned, half or one", name));
}

Dtype float_type_from_name(std::string_view name) {
  for (const Dtype dtype : {Dtype::float16, Dtype::bfloat16, Dtype::float32}) {
    if (name == gqmm::name_of(dtype)) {
      return dtype;
    }
  }
  throw std::invalid_argument(fmt::format("[bench] dtype = '{}' is unknown; use float16, bfloat16 or float32", name));
}

detail::WeightMatrices Case::weights() const {
  detail::QuantizedMatrices matrices;
  matrices.settings = {&format(), group_size};
  matrices.layout = !transpose ? detail::WeightLayout::rows_along_n
                    : packed   ? detail::WeightLayout::strips
                               : detail::WeightLayout::rows_along_k;
  matrices.experts = shape.experts;
  return matrices;
}

int Case::slices() const { return is_integer() ? detail::slices_for(precision, dtype) : 1; }

double Case::operations() const {
  const double rows = static_cast<double>(tokens) * static_cast<double>(shape.top + shape.shared_experts);
  return 2.0 * shape.projections() * rows * static_cast<double>(shape.N) * static_cast<double>(shape.K);
}

double Case::bytes_per_expert() const {
  const double weights = shape.projections() * static_cast<double>(shape.N) * static_cast<double>(shape.K);
  const double scale_bytes = format().has_biases ? 2.0 * static_cast<double>(size_of(scale_dtype())) : 1.0;
  return weights * bits / 8 + weights / group_size * scale_bytes;
}

double Case::bytes(double experts_hit) const {
  return bytes_per_expert() * (experts_hit + static_cast<double>(shape.shared_experts));
}

std::string Case::format_name() const {
  return fmt::format("{} {}-bit g{}{}", gqmm::name_of(mode), bits, group_size, transpose ? "" : " not transposed");
}

std::string Case::name() const {
  return fmt::format("{} T={} {} {} {} {} {} {} {} thread{}{}", shape.name, tokens, format_name(), gqmm::name_of(dtype),
                     gqmm::name_of(precision), packed ? "packed" : "in place", bench::name_of(routing), isa, threads,
                     threads == 1 ? "" : "s", cached ? " cached" : "");
}

}  // namespace gqmm::bench
