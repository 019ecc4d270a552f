#include "cli/expert_check.hpp"

#include "api/lower.hpp"
#include "cpu/backend.hpp"
#include "reference/reference.hpp"

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

/// The expert of each row of x: all of them once, then enough rows for one expert to fill the tiles of a matrix product with a
/// remainder, and for another to be just more than one.
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
  const std::size_t size = size_of(dtype);
  for (std::int64_t i = 0; i < x.size(); ++i) {
    store_float(x.mutable_bytes() + static_cast<std::size_t>(i) * size, dtype, normal(random));
  }
  return x;
}

/// Flat positions in y of the outputs to compare: all, or as many as wanted, spread over all rows.
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

CheckedOutput compare(const Problem& problem, std::int64_t position) {
  CheckedOutput output;
  output.row = position / problem.N;
  output.n = position % problem.N;
  output.expert = problem.rhs[static_cast<std::size_t>(output.row)];
  const ReferenceValue reference = reference_value(problem, output.row, 0, output.n);
  const float y = load_float(problem.y + static_cast<std::size_t>(position) * size_of(problem.y_dtype), problem.y_dtype);
  output.value = y;
  output.expected = reference.y;
  output.bound = error_bound(problem, reference);
  output.fraction = error_fraction(problem, reference, y);
  return output;
}

/// y before the call. No result has these bits: every NaN of the library is the positive quiet one.
constexpr int poison = 0xff;

std::size_t bytes_of(const Problem& problem) {
  return problem.rhs.size() * static_cast<std::size_t>(problem.M * problem.N) * size_of(problem.y_dtype);
}

std::int64_t count_unwritten(const std::byte* y, std::int64_t outputs, std::size_t size) {
  std::int64_t unwritten = 0;
  for (std::int64_t i = 0; i < outputs; ++i) {
    const std::byte* output = y + static_cast<std::size_t>(i) * size;
    unwritten += std::all_of(output, output + size, [](std::byte b) { return b == std::byte{poison}; }) ? 1 : 0;
  }
  return unwritten;
}

}  // namespace

Lowered make_product(const io::QuantizedTensor& tensor, Dtype x_dtype, const CheckSettings& settings) {
  Random random(settings.seed);
  const std::vector<std::int64_t> rhs = route(tensor.experts, random);
  const auto rows = static_cast<std::int64_t>(rhs.size());
  GatherQmmOptions options;
  options.scales = tensor.scales;
  options.biases = tensor.biases;
  options.global_scale = tensor.global_scale;
  options.rhs_indices = array::borrow(rhs.data(), {rows}, Dtype::int64);
  options.group_size = tensor.group_size;
  options.bits = tensor.format->bits;
  options.mode = tensor.format->mode;
  options.precision = settings.precision;
  options.stream.threads = settings.threads;
  Lowered lowered = lower_gather_qmm(normal_activations(rows, tensor.K, x_dtype, random), tensor.w, options);
  if (lowered.result.size() != 0) {
    std::memset(lowered.problem.y, poison, bytes_of(lowered.problem));
  }
  return lowered;
}

CheckResult compare_with_reference(const Problem& problem, const CheckSettings& settings) {
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
  cpu::share_out(static_cast<std::int64_t>(chosen.size()), threads, [&](std::int64_t i) {
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
  const Lowered product = make_product(tensor, x_dtype, settings);
  if (product.result.size() != 0) {
    cpu::run(product.problem);
  }
  return compare_with_reference(product.problem, settings);
}

}  // namespace gqmm::cli
