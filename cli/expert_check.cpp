#include "cli/expert_check.hpp"

#include "api/lower.hpp"
#include "cpu/backend.hpp"
#include "reference/reference.hpp"
#include "threads/share_out.hpp"

#include <gqmm/system.hpp>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

namespace gqmm::cli {
namespace {

using Random = std::mt19937_64;

std::int64_t below(Random& random, std::int64_t end) { return std::uniform_int_distribution<std::int64_t>(0, end - 1)(random); }

/// The expert of each row of x. Every expert gets one row. A random expert gets 37 more, which fill some tiles and leave a
/// remainder. Another random expert gets one more.
std::vector<std::int64_t> route(std::int64_t experts, Random& random) {
  std::vector<std::int64_t> rhs(static_cast<std::size_t>(experts));
  std::iota(rhs.begin(), rhs.end(), 0);
  for (const std::size_t extra : {37U, 1U}) {
    rhs.insert(rhs.end(), extra, below(random, experts));
  }
  std::shuffle(rhs.begin(), rhs.end(), random);
  return rhs;
}

array normal_activations(std::int64_t rows, std::int64_t K, Dtype dtype, Random& random) {
  array x = array::empty({rows, 1, K}, dtype);
  std::normal_distribution<float> normal;
  for (std::int64_t i = 0; i < x.size(); ++i) {
    detail::store_float(x.mutable_bytes() + i * x.itemsize(), dtype, normal(random));
  }
  return x;
}

/// The flat positions in y of the outputs to compare. They are all outputs, or `samples` of them that are spread over all rows.
std::vector<std::int64_t> choose(std::int64_t rows, std::int64_t N, std::int64_t samples, Random& random) {
  std::vector<std::int64_t> chosen;
  if (rows * N <= samples) {
    chosen.resize(static_cast<std::size_t>(rows * N));
    std::iota(chosen.begin(), chosen.end(), 0);
    return chosen;
  }
  const std::int64_t first_row = below(random, rows);
  for (std::int64_t i = 0; i < samples; ++i) {
    chosen.push_back((first_row + i) % rows * N + below(random, N));
  }
  return chosen;
}

CheckedOutput compare(const detail::Problem& problem, std::int64_t position) {
  CheckedOutput output;
  output.row = position / problem.N;
  output.n = position % problem.N;
  output.expert = problem.rhs[static_cast<std::size_t>(output.row)];
  const detail::ReferenceValue reference = reference_value(problem, output.row, 0, output.n);
  const float y = detail::load_float(problem.y + static_cast<std::size_t>(position) * size_of(problem.y_dtype), problem.y_dtype);
  output.value = y;
  output.expected = reference.y;
  output.bound = error_bound(problem, reference);
  output.fraction = error_fraction(problem, reference, y);
  return output;
}

/// Every byte of y has this value before the call. No result has these bits, because every NaN of the library is the positive
/// quiet NaN.
constexpr int poison = 0xff;

std::int64_t count_unwritten(const std::byte* y, std::int64_t outputs, std::size_t size) {
  std::int64_t unwritten = 0;
  for (std::int64_t i = 0; i < outputs; ++i) {
    const std::byte* output = y + static_cast<std::size_t>(i) * size;
    unwritten += std::all_of(output, output + size, [](std::byte b) { return b == std::byte{poison}; }) ? 1 : 0;
  }
  return unwritten;
}

}  // namespace

RandomProduct make_product(const io::QuantizedTensor& tensor, Dtype x_dtype, const CheckSettings& settings) {
  Random random(settings.seed);
  const std::vector<std::int64_t> rhs = route(tensor.experts, random);
  const auto rows = static_cast<std::int64_t>(rhs.size());
  GatherQmmOptions options;
  options.rhs_indices = array::borrow(rhs.data(), {rows}, Dtype::int64);
  options.precision = settings.precision;
  options.stream.threads = settings.threads;
  const array x = normal_activations(rows, tensor.K, x_dtype, random);
  RandomProduct product = {detail::lower_gather_qmm(x, tensor.weights, options), tensor.weights, x};
  if (product.result.size() != 0) {
    std::memset(product.problem.y, poison, product.result.nbytes());
  }
  return product;
}

CheckResult compare_with_reference(const detail::Problem& problem, const CheckSettings& settings) {
  const auto rows = static_cast<std::int64_t>(problem.rhs.size());
  CheckResult result;
  result.x_dtype = problem.x.dtype();
  result.y_dtype = problem.y_dtype;
  result.outputs = rows * problem.N;
  if (result.outputs == 0) {
    return result;
  }
  result.unwritten = count_unwritten(problem.y, result.outputs, size_of(problem.y_dtype));
  Random random(settings.seed);
  const std::vector<std::int64_t> chosen = choose(rows, problem.N, settings.samples, random);
  std::vector<CheckedOutput> compared(chosen.size());
  const int threads = settings.threads > 0 ? settings.threads : get_num_threads();
  threads::share_out(static_cast<std::int64_t>(chosen.size()), threads, [&](std::int64_t i) {
    const auto position = static_cast<std::size_t>(i);
    compared[position] = compare(problem, chosen[position]);
  });
  result.compared = static_cast<std::int64_t>(compared.size());
  result.worst = *std::max_element(compared.begin(), compared.end(),
                                   [](const CheckedOutput& a, const CheckedOutput& b) { return a.fraction < b.fraction; });
  return result;
}

CheckResult check_tensor(const io::QuantizedTensor& tensor, Dtype x_dtype, const CheckSettings& settings) {
  if (tensor.experts == 0) {
    return {.x_dtype = x_dtype, .y_dtype = x_dtype, .worst = {}};
  }
  const RandomProduct product = make_product(tensor, x_dtype, settings);
  if (product.result.size() != 0) {
    cpu::run(product.problem);
  }
  return compare_with_reference(product.problem, settings);
}

}  // namespace gqmm::cli
