#include "cpu/activate.hpp"

#include "cpu/call_context.hpp"
#include "cpu/load_floats.hpp"

#include <algorithm>
#include <limits>
#include <optional>
#include <variant>

namespace gqmm::cpu {
namespace {

/// Elements that are converted, computed and rounded at once. Gate, up and h are 12 KiB of float32, which stay in L1.
constexpr std::int64_t block = 1024;
/// Elements of an item.
constexpr std::int64_t item_elements = 4 * block;
/// An element takes about as long as this number of multiply-adds.
constexpr double multiply_adds_of_an_element = 64;

/// An activation as the kernels know it.
struct KindAndConstants {
  ActivationKind kind;
  ActivationConstants constants = {};
};

float limit_or_infinity(const std::optional<float>& limit) { return limit.value_or(std::numeric_limits<float>::infinity()); }

struct ToKind {
  KindAndConstants operator()(const SwiGLU& a) const {
    return {ActivationKind::swiglu, {.alpha = a.alpha, .limit = limit_or_infinity(a.limit), .bias = a.bias}};
  }
  KindAndConstants operator()(const GeGLU& a) const {
    return {a.approximate == GeluApproximation::tanh ? ActivationKind::geglu_tanh : ActivationKind::geglu};
  }
  KindAndConstants operator()(const SiTU& a) const {
    return {a.linear_beta ? ActivationKind::situ_linear : ActivationKind::situ,
            {.beta = a.beta, .linear_beta = a.linear_beta.value_or(1.0F)}};
  }
  KindAndConstants operator()(const SwiGLUStep& a) const { return {ActivationKind::swiglu_step, {.limit = a.limit}}; }
  KindAndConstants operator()(const SiLU&) const { return {ActivationKind::silu}; }
  KindAndConstants operator()(const GELU& a) const {
    return {a.approximate == GeluApproximation::tanh ? ActivationKind::gelu_tanh : ActivationKind::gelu};
  }
  KindAndConstants operator()(const ReLU2&) const { return {ActivationKind::relu2}; }
};

}  // namespace

ActivationOfRows::ActivationOfRows(const KernelTable& kernels, const Activation& activation) {
  const KindAndConstants of_kernels = std::visit(ToKind(), activation);
  run_ = kernels.activate[static_cast<std::size_t>(of_kernels.kind)];
  constants_ = of_kernels.constants;
}

void activate(const ActivateProblem& problem) {
  const MatrixBatch& gate = problem.gate;
  const std::int64_t count = gate.count() * gate.rows() * gate.cols();
  const auto itemsize = static_cast<std::int64_t>(size_of(gate.dtype()));
  CallContext call(static_cast<double>(count) * multiply_adds_of_an_element, problem.threads);
  const KernelTable& kernels = call.kernels();
  const ActivationOfRows activation(kernels, problem.activation);
  const std::int64_t items = (count + item_elements - 1) / item_elements;
  call.use_at_most(items);
  call.add_phase(
      items, [](std::int64_t) { return 1; },
      [&](std::int64_t item, std::int64_t) {
        alignas(line_bytes) float gates[block];
        alignas(line_bytes) float ups[block];
        const std::int64_t end = std::min(count, (item + 1) * item_elements);
        for (std::int64_t first = item * item_elements; first < end; first += block) {
          const std::int64_t n = std::min(block, end - first);
          load_floats(kernels, gate, first, n, gates);
          if (!problem.up.empty()) {
            load_floats(kernels, problem.up, first, n, ups);
          }
          activation(gates, problem.up.empty() ? nullptr : ups, gates, n);
          kernels.round(gates, n, gate.dtype(), problem.h + first * itemsize);
        }
      });
  call.run();
}

}  // namespace gqmm::cpu
