#include "conformance/support/check.hpp"

#include "conformance/support/guarded_memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string_view>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr std::size_t guard_bytes = 64;
constexpr std::byte guard{0xa5};

GatherMmOptions dense_options(const GatherQmmOptions& options) {
  return {.lhs_indices = options.lhs_indices,
          .rhs_indices = options.rhs_indices,
          .sorted_indices = options.sorted_indices,
          .stream = options.stream,
          .out = options.out};
}

double outlier_bound(const Problem& problem, const ReferenceValue& reference) {
  const double relative = problem.y_dtype == Dtype::float32 ? 0x1p-17 : problem.y_dtype == Dtype::float16 ? 0x1p-10 : 0x1p-7;
  return relative * reference.plain;
}

double outlier_fraction(const Problem& problem, const ReferenceValue& reference, float y) {
  const double error = std::fabs(static_cast<double>(y) - reference.y);
  return error == 0 ? 0.0 : error / outlier_bound(problem, reference);
}

// 0xff in every byte of an element: no operator writes this NaN.
bool is_poison(const std::byte* element, std::size_t itemsize) {
  return std::all_of(element, element + itemsize, [](std::byte b) { return b == std::byte{0xff}; });
}

std::string coordinate(const array& y, std::int64_t element) {
  const std::int64_t N = y.dim(-1);
  const std::int64_t M = y.dim(-2);
  return fmt::format("(pair {}, m {}, n {})", element / (M * N), element / N % M, element % N);
}

}  // namespace

const Contract outlier_contract = {outlier_bound, outlier_fraction};

std::vector<std::string> supported_instruction_sets() {
  std::vector<std::string> names;
  for (const InstructionSet& set : instruction_sets()) {
    if (set.supported) {
      names.push_back(set.name);
    }
  }
  return names;
}

bool quick() {
  static const bool is_quick = [] {
    const char* const wish = std::getenv("GQMM_CONFORMANCE");
#ifdef GQMM_SANITIZED
    return wish == nullptr || std::string_view(wish) != "full";
#else
    return wish != nullptr && std::string_view(wish) == "quick";
#endif
  }();
  return is_quick;
}

Lowered lower(const Operands& operands) {
  return operands.dense ? lower_gather_mm(operands.x, operands.weights.w, dense_options(operands.options))
                        : lower_gather_qmm(operands.x, operands.weights, operands.options);
}

array call(const Operands& operands) {
  return operands.dense ? gather_mm(operands.x, operands.weights.w, dense_options(operands.options))
                        : gather_qmm(operands.x, operands.weights, operands.options);
}

PackedWeights pack(const Operands& operands) { return gqmm::pack(operands.weights, {.stream = operands.options.stream}); }

array call_poisoned(const Operands& operands, const PackedWeights* packed) {
  const Lowered lowered = lower(operands);
  const Shape& shape = lowered.result.shape();
  const Dtype dtype = lowered.result.dtype();
  const std::int64_t size = lowered.result.size();  // counted anew each time it is asked for
  const std::size_t itemsize = size_of(dtype);
  const std::size_t bytes = lowered.result.nbytes();
  const std::shared_ptr<std::byte> memory = guarded_memory(guard_bytes + bytes, Edge::upper);
  std::fill_n(memory.get(), guard_bytes, guard);

  Operands with_out = operands;
  with_out.options.out = array::borrow_mut(memory.get() + guard_bytes, shape, dtype, {}, memory);
  const array y = packed != nullptr ? gather_qmm(with_out.x, *packed, with_out.options) : call(with_out);
  EXPECT_EQ(y.bytes(), memory.get() + guard_bytes) << "the result is the memory given as out";
  EXPECT_TRUE(std::all_of(memory.get(), memory.get() + guard_bytes, [](std::byte b) { return b == guard; }))
      << "bytes before the result were written";
  for (std::int64_t i = 0; i < size; ++i) {
    if (is_poison(y.bytes() + static_cast<std::size_t>(i) * itemsize, itemsize)) {
      ADD_FAILURE() << "output " << coordinate(y, i) << " was not written";
      break;
    }
  }
  return y;
}

Judgement judge(const Problem& problem, const Oracle& oracle, const array& y, const Contract& contract) {
  Judgement worst;
  const std::byte* address = y.bytes();
  for (std::int64_t pair = 0; pair < static_cast<std::int64_t>(problem.rhs.size()); ++pair) {
    for (std::int64_t m = 0; m < problem.M; ++m) {
      for (std::int64_t n = 0; n < problem.N; ++n, address += size_of(y.dtype())) {
        const ReferenceValue& expected = oracle.at(pair, m, n);
        const float actual = load_float(address, y.dtype());
        const double bound = contract.bound(problem, expected);
        double fraction = contract.fraction(problem, expected, actual);
        fraction = std::isnan(fraction) ? std::numeric_limits<double>::infinity() : fraction;
        worst.unbounded += std::isinf(bound) ? 1 : 0;
        if (fraction > worst.worst) {
          worst = {fraction, pair, m, n, actual, expected, bound, worst.unbounded};
        }
      }
    }
  }
  return worst;
}

::testing::AssertionResult keeps(const Judgement& j) {
  if (j.worst <= 1) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << fmt::format(
             "worst output (pair {}, m {}, n {}): expected {:.9g}, actual {:.9g}, error {:.3g}, bound {:.3g} ({:.3g} times the "
             "bound)",
             j.pair, j.m, j.n, j.expected.y, j.actual, std::fabs(j.expected.y - static_cast<double>(j.actual)), j.bound, j.worst);
}

::testing::AssertionResult same_bits(const array& expected, const array& actual) {
  if (expected.shape() != actual.shape() || expected.dtype() != actual.dtype()) {
    return ::testing::AssertionFailure() << fmt::format("expected {} {}, actual {} {}", name_of(expected.dtype()),
                                                        to_string(expected.shape()), name_of(actual.dtype()),
                                                        to_string(actual.shape()));
  }
  const std::size_t itemsize = size_of(expected.dtype());
  if (expected.size() == 0 || std::memcmp(expected.bytes(), actual.bytes(), expected.nbytes()) == 0) {
    return ::testing::AssertionSuccess();
  }
  std::int64_t differing = 0;
  std::int64_t first = -1;
  for (std::int64_t i = 0; i < expected.size(); ++i) {
    const std::size_t at = static_cast<std::size_t>(i) * itemsize;
    if (std::memcmp(expected.bytes() + at, actual.bytes() + at, itemsize) != 0) {
      first = first < 0 ? i : first;
      ++differing;
    }
  }
  const std::size_t at = static_cast<std::size_t>(first) * itemsize;
  return ::testing::AssertionFailure() << fmt::format("{} of {} outputs differ, first {}: expected {:a}, actual {:a}", differing,
                                                      expected.size(), coordinate(expected, first),
                                                      load_float(expected.bytes() + at, expected.dtype()),
                                                      load_float(actual.bytes() + at, actual.dtype()));
}

}  // namespace gqmm::conformance
