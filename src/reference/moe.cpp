#include "reference/moe.hpp"

#include "formats/float_types.hpp"
#include "plan/problem.hpp"
#include "plan/routing.hpp"
#include "reference/activation.hpp"
#include "reference/reference.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

namespace gqmm::detail {
namespace {

/// A number and how far the computed one may be from it.
struct Estimate {
  double value = 0;
  double error = 0;
};
using Row = std::vector<Estimate>;

double roundoff_of(Dtype dtype) { return dtype == Dtype::float16 ? 0x1p-11 : dtype == Dtype::bfloat16 ? 0x1p-8 : 0x1p-24; }
double smallest_of(Dtype dtype) { return dtype == Dtype::float16 ? 0x1p-24 : dtype == Dtype::bfloat16 ? 0x1p-133 : 0x1p-149; }
double largest_of(Dtype dtype) {
  return dtype == Dtype::float16 ? 65504.0 : dtype == Dtype::bfloat16 ? 0x1.fep127 : 0x1.fffffep127;
}

/// The computed number after it has been rounded.
Estimate rounded(const Estimate& exact, Dtype dtype) {
  return {exact.value, exact.error + roundoff_of(dtype) * (std::fabs(exact.value) + exact.error) + smallest_of(dtype)};
}

double element(const MatrixBatch& matrix, std::int64_t row, std::int64_t col) {
  return load_float(matrix.row(0, row) + col * matrix.col_stride(), matrix.dtype());
}
/// The relative error of an activation, which multiplies the error of its operands: at most 32 operations and ulp.
constexpr double activation_roundoff = 32 * 0x1p-24;

/// Element `i` of the row-major order of all matrices.
double flat_element(const MatrixBatch& matrices, std::int64_t i) {
  const std::int64_t in_matrix = matrices.rows() * matrices.cols();
  const std::int64_t row = i % in_matrix / matrices.cols();
  return load_float(matrices.row(i / in_matrix, row) + i % matrices.cols() * matrices.col_stride(), matrices.dtype());
}

/// The numbers of some outputs: 0 … count − 1, or others.
std::vector<std::int64_t> all_outputs(std::int64_t count) {
  std::vector<std::int64_t> outputs(static_cast<std::size_t>(count));
  std::iota(outputs.begin(), outputs.end(), std::int64_t{0});
  return outputs;
}

/// A layer whose weights are decoded once for each expert if they are to be kept, else whenever they are used.
class DecodedLayer {
 public:
  DecodedLayer(const LinearLayer& layer, int slices, bool keep) : layer_(layer), keep_(keep) {
    problem_.N = layer.N;
    problem_.K = layer.K;
    problem_.weights = layer.weights;
    problem_.slices = slices;
  }

  /// Some outputs of an expert for a row that is known up to its errors.
  Row multiply(std::int64_t expert, const Row& x, const std::vector<std::int64_t>& outputs) {
    Row y;
    std::vector<ReferenceWeight> memory;
    for (const std::int64_t n : outputs) {
      const std::vector<ReferenceWeight>& weights = decoded(expert, n, memory);
      ReferenceValue value;
      double spread = 0;
      for (std::size_t k = 0; k < x.size(); ++k) {
        const ReferenceWeight& w = weights[k];
        value.y += x[k].value * w.value;
        value.magnitude += (std::fabs(x[k].value) + x[k].error) * w.group_magnitude;
        value.plain += std::fabs(x[k].value * w.value);
        spread += x[k].error * std::fabs(w.value);
      }
      Estimate output = {value.y, error_bound(problem_, value) + spread};
      if (!layer_.bias.empty()) {
        output.value += element(layer_.bias, expert, n);
        output = rounded(output, Dtype::float32);
      }
      y.push_back(output);
    }
    return y;
  }
  Row multiply(std::int64_t expert, const Row& x) { return multiply(expert, x, all_outputs(layer_.N)); }

 private:
  /// The weights of an output, in `memory` if they are not kept.
  const std::vector<ReferenceWeight>& decoded(std::int64_t expert, std::int64_t n, std::vector<ReferenceWeight>& memory) {
    std::vector<ReferenceWeight>& weights = keep_ ? kept_[{expert, n}] : memory;
    if (!keep_) {
      weights.clear();
    }
    if (weights.empty()) {
      for (std::int64_t k = 0; k < layer_.K; ++k) {
        weights.push_back(reference_weight(layer_.weights, layer_.N, layer_.K, expert, n, k));
      }
    }
    return weights;
  }

  const LinearLayer& layer_;
  bool keep_;
  Problem problem_;                                                                     // only what error_bound reads
  std::map<std::pair<std::int64_t, std::int64_t>, std::vector<ReferenceWeight>> kept_;  // by expert and output
};

/// The layers of a block.
struct DecodedBlock {
  const FeedForwardLayers& layers;
  DecodedLayer gate;
  std::optional<DecodedLayer> up;
  DecodedLayer down;

  DecodedBlock(const FeedForwardLayers& of, int slices, bool keep)
      : layers(of), gate(of.gate, slices, keep), down(of.down, slices, keep) {
    if (of.up) {
      up.emplace(*of.up, slices, keep);
    }
  }
};

Row h_of(DecodedBlock& block, std::int64_t expert, const Row& x) {
  const FeedForwardLayers& layers = block.layers;
  const Row gate = block.gate.multiply(expert, x);
  const Row up = block.up ? block.up->multiply(expert, x) : Row();
  Row h;
  for (std::int64_t i = 0; i < layers.I(); ++i) {
    Estimate g = gate[static_cast<std::size_t>(i)];
    Estimate u;
    if (layers.up) {
      u = up[static_cast<std::size_t>(i)];
    } else if (layers.gate_has_both()) {
      const std::int64_t I = layers.I();
      const auto at = [&](std::int64_t half) {
        return gate[static_cast<std::size_t>(layers.order == GateUpOrder::interleaved ? 2 * i + half : half * I + i)];
      };
      const bool up_first = layers.order == GateUpOrder::up_gate;
      g = at(up_first ? 1 : 0);
      u = at(up_first ? 0 : 1);
    }
    const ActivationReference exact = reference_activation(layers.activation, g.value, u.value);
    const double change = change_of_activation(layers.activation, {g.value, u.value}, {g.error, u.error});
    // The activation's own error is relative to what it was given, which differs from the exact value by the change.
    h.push_back({exact.h, change + exact.error + activation_roundoff * change});
  }
  return h;
}

Row slot_of(DecodedBlock& block, std::int64_t expert, Dtype dtype, const Row& x, const std::vector<std::int64_t>& outputs) {
  Row slot = block.down.multiply(expert, h_of(block, expert, x), outputs);
  for (Estimate& output : slot) {
    output = rounded(output, dtype);
  }
  return slot;
}

Row row_of_x(const MoeProblem& problem, std::int64_t token) {
  Row x;
  for (std::int64_t i = 0; i < problem.H; ++i) {
    x.push_back({load_float(problem.x.row(token, 0) + i * problem.x.col_stride(), problem.x.dtype()), 0});
  }
  return x;
}

/// The slots of a token with their weights.
struct WeightedSlot {
  double weight;
  Row slot;
};

/// The layers of a problem.
struct DecodedLayers {
  DecodedBlock experts;
  std::optional<DecodedBlock> shared;

  DecodedLayers(const MoeProblem& problem, bool keep) : experts(problem.experts, problem.slices, keep) {
    if (problem.shared) {
      shared.emplace(*problem.shared, problem.slices, keep);
    }
  }
};

/// Some outputs of the slots of a token.
std::vector<WeightedSlot> slots_of(const MoeProblem& problem, std::int64_t token, DecodedLayers& layers,
                                   const std::vector<std::int64_t>& outputs) {
  const Row x = row_of_x(problem, token);
  std::vector<WeightedSlot> slots;
  for (std::int64_t j = 0; j < problem.k; ++j) {
    const std::int64_t i = token * problem.k + j;
    double weight = problem.topk_weights.empty() ? 1.0 : flat_element(problem.topk_weights, i);
    Row input = x;
    if (problem.router_weight_on_input) {
      for (Estimate& element : input) {
        // The product is rounded to the type of x. The row that the experts see is exactly that.
        std::byte memory[sizeof(float)];
        store_float(memory, problem.dtype, static_cast<float>(element.value) * static_cast<float>(weight));
        element.value = load_float(memory, problem.dtype);
      }
      weight = 1.0;
    }
    const std::int64_t expert = problem.ids[static_cast<std::size_t>(i)];
    slots.push_back(
        {weight, expert == no_expert ? Row(outputs.size()) : slot_of(layers.experts, expert, problem.dtype, input, outputs)});
  }
  if (layers.shared) {
    const double scale = problem.shared_scale.empty() ? 1.0 : flat_element(problem.shared_scale, token);
    slots.push_back({scale, slot_of(*layers.shared, 0, problem.dtype, x, outputs)});
  }
  return slots;
}

MoeReference judged(const Estimate& computed, Dtype dtype) {
  const bool finite = std::isfinite(computed.value) && std::fabs(computed.value) + computed.error <= largest_of(dtype);
  return {computed.value, finite ? computed.error : std::numeric_limits<double>::infinity()};
}

/// The weighted sum of the slots of a token.
std::vector<MoeReference> sum_of(const std::vector<WeightedSlot>& slots, std::size_t outputs, Dtype dtype) {
  std::vector<MoeReference> result;
  for (std::size_t n = 0; n < outputs; ++n) {
    Estimate sum;
    double magnitude = 0;
    for (const WeightedSlot& slot : slots) {
      const Estimate& output = slot.slot[n];
      sum.value += slot.weight * output.value;
      sum.error += std::fabs(slot.weight) * output.error;
      magnitude += std::fabs(slot.weight) * (std::fabs(output.value) + output.error);
    }
    const auto terms = static_cast<double>(slots.size());
    sum.error += terms * 0x1p-24 / (1 - terms * 0x1p-24) * magnitude + terms * 0x1p-150;
    result.push_back(judged(rounded(sum, dtype), dtype));
  }
  return result;
}

}  // namespace

std::vector<MoeReference> reference_moe(const MoeProblem& problem) {
  DecodedLayers layers(problem, true);
  const std::vector<std::int64_t> outputs = all_outputs(problem.H);
  std::vector<MoeReference> result;
  for (std::int64_t token = 0; token < problem.tokens; ++token) {
    const std::vector<WeightedSlot> slots = slots_of(problem, token, layers, outputs);
    if (!problem.topk_weights.empty() || problem.k == 0) {
      const std::vector<MoeReference> sums = sum_of(slots, outputs.size(), problem.dtype);
      result.insert(result.end(), sums.begin(), sums.end());
      continue;
    }
    for (const WeightedSlot& slot : slots) {
      for (const Estimate& output : slot.slot) {
        result.push_back(judged(output, problem.dtype));
      }
    }
  }
  return result;
}

std::vector<MoeReference> reference_moe(const MoeProblem& problem, std::int64_t token, const std::vector<std::int64_t>& outputs) {
  DecodedLayers layers(problem, false);
  return sum_of(slots_of(problem, token, layers, outputs), outputs.size(), problem.dtype);
}

}  // namespace gqmm::detail
