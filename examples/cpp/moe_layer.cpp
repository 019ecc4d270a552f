// One projection of a mixture-of-experts layer. The program quantizes the experts to 4 bits, and sends every token to two of
// them. Then it compares the result of gather_qmm with a plain product of the dequantized weights.

#include <gqmm/gqmm.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <exception>
#include <iostream>
#include <random>
#include <vector>

namespace {

constexpr std::int64_t tokens = 6, experts = 8, top_k = 2, N = 96, K = 256;

std::vector<float> normal_values(std::int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  std::generate(values.begin(), values.end(), [&] { return normal(generator); });
  return values;
}

// Returns the experts that a router could choose: expert_of[token][slot].
std::vector<std::uint32_t> routed_experts() {
  std::vector<std::uint32_t> expert_of;
  for (std::uint32_t token = 0; token < tokens; ++token) {
    expert_of.push_back(3 * token % experts);
    expert_of.push_back((3 * token + 5) % experts);
  }
  return expert_of;
}

// Returns max |y - x @ w.T|, divided by the largest |x @ w.T|. w are the dequantized experts, and sums are in double.
double worst_difference(const gqmm::array& y, const std::vector<float>& x, const gqmm::array& dequantized,
                        const std::vector<std::uint32_t>& expert_of) {
  const float* const weights = dequantized.data<float>();
  double worst = 0, largest = 0;
  for (std::int64_t pair = 0; pair < tokens * top_k; ++pair) {
    const float* const row = x.data() + pair / top_k * K;
    const float* const expert = weights + static_cast<std::int64_t>(expert_of[static_cast<std::size_t>(pair)]) * N * K;
    for (std::int64_t n = 0; n < N; ++n) {
      double sum = 0;
      for (std::int64_t k = 0; k < K; ++k) {
        sum += static_cast<double>(row[k]) * expert[n * K + k];
      }
      worst = std::max(worst, std::abs(y.data<float>()[pair * N + n] - sum));
      largest = std::max(largest, std::abs(sum));
    }
  }
  return worst / largest;
}

int run() {
  const std::vector<float> weights = normal_values(experts * N * K, 1);
  const std::vector<float> x = normal_values(tokens * K, 2);
  const std::vector<std::uint32_t> expert_of = routed_experts();

  // With 4 bits the codes have an eighth of float32's size. A program with a checkpoint would borrow its mapped tensors instead.
  const gqmm::QuantizedWeights quantized =
      gqmm::quantize(gqmm::array::borrow(weights, {experts, N, K}), {.group_size = 64, .bits = 4});

  // x has shape (tokens, 1, M = 1, K). Its leading shape (tokens, 1) broadcasts with (tokens, top_k), the shape of the indices.
  const gqmm::array y = gqmm::gather_qmm(gqmm::array::borrow(x, {tokens, 1, 1, K}), quantized,
                                         {.rhs_indices = gqmm::array::borrow(expert_of, {tokens, top_k})});

  const gqmm::array dequantized = gqmm::dequantize(quantized);
  const double difference = worst_difference(y, x, dequantized, expert_of);

  std::cout << "gqmm " << gqmm::version() << " on " << gqmm::active_instruction_set() << ": y " << gqmm::to_string(y.shape())
            << " from " << tokens << " tokens, each sent to " << top_k << " of " << experts << " experts\n"
            << "largest difference from the dequantized product: " << difference << " of the largest value\n";

  // The result is as exact as float32 (docs/reference/numerics.md). A sum in float32 may lose one unit roundoff per term.
  const bool is_faithful = difference < static_cast<double>(K) * 0x1p-24;
  return is_faithful && y.shape() == gqmm::Shape{tokens, top_k, 1, N} ? 0 : 1;
}

}  // namespace

int main() {
  try {
    return run();
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 2;
  }
}
