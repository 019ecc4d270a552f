#include <gqmm/explain.hpp>

#include "api/lower.hpp"
#include "cpu/backend.hpp"
#include "threads/node_binding.hpp"

#include <fmt/format.h>

namespace gqmm {

using namespace detail;

namespace {

std::string text_of(const Lowered& lowered) {
  const Problem& problem = lowered.problem;
  return fmt::format("gather_qmm: {} pairs of M = {}, N = {}, K = {}, {} experts\n", problem.rhs.size(), problem.M, problem.N,
                     problem.K, experts_of(problem.weights)) +
         to_string(cpu::plan_for(problem));
}

}  // namespace

std::string explain(const array& x, const QuantizedWeights& weights, const GatherQmmOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return text_of(lower_gather_qmm(x, weights, options));
}

std::string explain(const array& x, const PackedWeights& weights, const GatherQmmOptions& options) {
  const threads::NodeBinding binding(options.stream);
  return text_of(lower_gather_qmm(x, weights, options));
}

}  // namespace gqmm
