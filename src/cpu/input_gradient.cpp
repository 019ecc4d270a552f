// The gradient of x: products with the other transpose, whose results are added up by the matrix of x that they belong to.
//
//     dx[l] = Σ dy[i] @ ŵ[rhs[i]] over the pairs i with lhs[i] = l, in ascending order
#include "cpu/backend.hpp"
#include "cpu/call_context.hpp"
#include "cpu/gathered_product.hpp"
#include "cpu/gradients.hpp"
#include "plan/routing.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

namespace gqmm::cpu {
namespace {

/// The products dy[i] @ ŵ[rhs[i]]. `pairs` are 0, 1, …
Problem transposed_product(const GradientProblem& gradient, std::span<const std::int64_t> pairs) {
  Problem problem = gradient.product;
  std::swap(problem.N, problem.K);
  problem.x = gradient.dy;
  problem.weights = transposed(gradient.product.weights);
  problem.lhs = pairs;
  problem.slices = max_slices;  // sums are float32's whatever the types
  return problem;
}

/// The pairs of each matrix of x: order[first[l], first[l + 1]).
struct PairsOfMatrices {
  std::vector<std::int64_t> order;
  std::vector<std::int64_t> first;

  PairsOfMatrices(std::span<const std::int64_t> lhs, std::int64_t matrices) : first(static_cast<std::size_t>(matrices) + 1, 0) {
    Routing routing = route(lhs, matrices, false);
    order = std::move(routing.order);
    for (const Segment& segment : routing.segments) {
      first[static_cast<std::size_t>(segment.expert) + 1] = segment.last;
    }
    std::partial_sum(first.begin(), first.end(), first.begin(), [](std::int64_t a, std::int64_t b) { return std::max(a, b); });
  }
};

/// Adds up the rows of the pairs into rows of dx. The sum begins with the first pair's row, whose memory it takes.
class SumOfPairs {
 public:
  SumOfPairs(const KernelTable& kernels, const GradientProblem& gradient, float* of_pairs)
      : kernels_(kernels),
        gradient_(gradient),
        M_(gradient.product.M),
        K_(gradient.product.K),
        pairs_(gradient.product.lhs, gradient.x_matrices),
        of_pairs_(of_pairs) {}

  [[nodiscard]] std::int64_t count() const { return gradient_.x_matrices * M_; }
  [[nodiscard]] std::int64_t cost(std::int64_t row) const {
    const auto matrix = static_cast<std::size_t>(row / M_);
    return 1 + pairs_.first[matrix + 1] - pairs_.first[matrix];
  }
  void run(std::int64_t row) const {
    const auto matrix = static_cast<std::size_t>(row / M_);
    const std::int64_t row_bytes = K_ * static_cast<std::int64_t>(size_of(gradient_.x.dtype));
    std::byte* const dx = gradient_.x.data + row * row_bytes;
    const std::int64_t first = pairs_.first[matrix];
    const std::int64_t last = pairs_.first[matrix + 1];
    if (first == last) {
      std::memset(dx, 0, static_cast<std::size_t>(row_bytes));
      return;
    }
    float* const sum = row_of(first, row % M_);
    for (std::int64_t i = first + 1; i < last; ++i) {
      const float* const next = row_of(i, row % M_);
      for (std::int64_t k = 0; k < K_; ++k) {
        sum[k] += next[k];
      }
    }
    kernels_.round(sum, K_, gradient_.x.dtype, dx);
  }

 private:
  [[nodiscard]] float* row_of(std::int64_t i, std::int64_t m) const {
    return of_pairs_ + (pairs_.order[static_cast<std::size_t>(i)] * M_ + m) * K_;
  }

  const KernelTable& kernels_;
  const GradientProblem& gradient_;
  std::int64_t M_;
  std::int64_t K_;
  PairsOfMatrices pairs_;
  float* of_pairs_;  // (pairs, M, K)
};

}  // namespace

void run_input_gradient(const GradientProblem& gradient) {
  std::vector<std::int64_t> pairs(gradient.product.rhs.size());
  std::iota(pairs.begin(), pairs.end(), std::int64_t{0});
  const Problem problem = transposed_product(gradient, pairs);
  CallContext call(multiply_adds(problem), problem.threads);
  GatheredProduct product(call, problem);
  auto* of_pairs = call.take<float>(static_cast<std::int64_t>(pairs.size()) * problem.M, problem.N);
  const SumOfPairs sum(call.kernels(), gradient, of_pairs);
  call.use_at_most(std::max(product.items_of_a_phase(), sum.count()));
  product.add_phases(call, [of_pairs, N = problem.N](const ResultBlock& block) {
    for (std::int64_t r = 0; r < block.rows(); ++r) {
      std::copy_n(block.row(r), block.outputs(), of_pairs + block.result_row(r) * N + block.first_output());
    }
  });
  call.add_phase(
      sum.count(), [&](std::int64_t row) { return sum.cost(row); }, [&](std::int64_t row, std::int64_t) { sum.run(row); });
  call.run();
}

}  // namespace gqmm::cpu
