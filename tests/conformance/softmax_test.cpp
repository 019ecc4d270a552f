// softmax keeps its bound, and the elements that are summed have the same bits in any batch, on every instruction set and with
// any threads.
#include "conformance/support/layer_arrays.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

int sweep() { return quick() ? 60 : 400; }

/// The numbers that are summed together are those with the same place: the coordinates that are not on an axis.
struct SoftmaxCall {
  array x;
  std::vector<int> axes;

  explicit SoftmaxCall(std::uint64_t seed) {
    Random random(seed);
    constexpr std::int64_t widths[] = {1, 7, 16, 33, 64, 128, 200};
    const std::vector<int> choices[] = {{-1}, {-1}, {2}, {1}, {0}, {-1, 1}, {0, -1}, {-3, -2}, {2, 0, 1}};
    x = random_array({random.integer(1, 3), random.integer(1, 20), random.one_of(widths)}, random.one_of(compute_types), random);
    axes = random.one_of(choices);
  }
  [[nodiscard]] array run(Stream stream = {}) const { return softmax(x, axes, {.stream = stream}); }
  [[nodiscard]] bool is_axis(int dim) const {
    return std::ranges::any_of(axes, [&](int axis) { return (axis + 3) % 3 == dim; });
  }
  /// The coordinates of an element of the result.
  [[nodiscard]] std::vector<std::int64_t> coordinates(std::int64_t i) const {
    return {i / x.dim(2) / x.dim(1), i / x.dim(2) % x.dim(1), i % x.dim(2)};
  }
  [[nodiscard]] std::size_t place(std::int64_t i) const {
    std::int64_t place = 0;
    for (int dim = 0; dim < 3; ++dim) {
      place = place * x.dim(dim) + (is_axis(dim) ? 0 : coordinates(i)[static_cast<std::size_t>(dim)]);
    }
    return static_cast<std::size_t>(place);
  }
};

/// What the elements of one place have in common.
struct Sums {
  double largest = -std::numeric_limits<double>::infinity();
  double sum = 0;        // of e^z with z = x − largest
  double exponents = 0;  // Σ e^z · |z|
  double count = 0;
};

std::vector<Sums> sums_of(const SoftmaxCall& call) {
  std::vector<Sums> places(static_cast<std::size_t>(call.x.size()));
  for (std::int64_t i = 0; i < call.x.size(); ++i) {
    Sums& sums = places[call.place(i)];
    sums.largest = std::max(sums.largest, element_at(call.x, call.coordinates(i)));
    ++sums.count;
  }
  for (std::int64_t i = 0; i < call.x.size(); ++i) {
    Sums& sums = places[call.place(i)];
    const double z = element_at(call.x, call.coordinates(i)) - sums.largest;
    sums.sum += std::exp(z);
    sums.exponents += std::exp(z) * std::fabs(z);
  }
  return places;
}

TEST(Softmax, KeepsItsErrorBound) {
  double worst = 0;
  for (int i = 0; i < sweep(); ++i) {
    SCOPED_TRACE(i);
    const SoftmaxCall call(static_cast<std::uint64_t>(51000 + i));
    const array y = call.run();
    const std::vector<Sums> places = sums_of(call);
    for (std::int64_t at = 0; at < y.size(); ++at) {
      const Sums& sums = places[call.place(at)];
      const double z = element_at(call.x, call.coordinates(at)) - sums.largest;
      const double expected = std::exp(z) / sums.sum;
      const double roundings = std::fabs(z) + sums.exponents / sums.sum + sums.count / 16 + 11;
      const double bound = (rounding_of(y.dtype()) + roundings * u) * expected + 0x1p-147 +
                           (y.dtype() == Dtype::float32 ? 0 : smallest_of(y.dtype()));
      const double error = std::fabs(element(y, at) - expected);
      ASSERT_LE(error, bound) << at;
      worst = std::max(worst, error / bound);
    }
  }
  EXPECT_GT(worst, 0.3) << "the bound is much too wide";
}

TEST(Softmax, HasTheSameBitsEverywhere) {
  for (int i = 0; i < sweep() / 4; ++i) {
    SCOPED_TRACE(i);
    SoftmaxCall call(static_cast<std::uint64_t>(52000 + i));
    const array expected = call.run();
    with_all_sets_and_threads([&](Stream stream) { EXPECT_TRUE(same_bits(expected, call.run(stream))); });
    call.axes = {-1};
    const array rows = call.run();
    const std::int64_t D = call.x.dim(2);
    SoftmaxCall last = call;  // one row alone
    last.x = array::borrow(call.x.bytes() + (call.x.dim(0) - 1) * call.x.strides()[0] + (call.x.dim(1) - 1) * call.x.strides()[1],
                           {D}, call.x.dtype(), {call.x.strides()[2]}, call.x.owner());
    const array alone = last.run();
    for (std::int64_t d = 0; d < D; ++d) {
      ASSERT_EQ(element(alone, d), element(rows, rows.size() - D + d));
    }
  }
}

TEST(Softmax, HasMlxsSpecialValues) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::int64_t n : {2, 16, 37}) {
    array x = array::empty({5, n}, Dtype::float32);
    for (std::int64_t i = 0; i < x.size(); ++i) {
      x.mutable_data<float>()[i] = i / n == 1 ? -infinity : static_cast<float>(i % 7);
    }
    x.mutable_data<float>()[0] = -infinity;  // its weight is 0
    x.mutable_data<float>()[2 * n + 1] = infinity;
    x.mutable_data<float>()[3 * n + n / 2] = nan;
    const RestoreInstructionSet restore;
    for (const std::string& name : supported_instruction_sets()) {
      SCOPED_TRACE(name);
      set_instruction_set(name);
      const array y = softmax(x);
      EXPECT_EQ(y.data<float>()[0], 0);
      for (std::int64_t i = 0; i < y.size(); ++i) {
        EXPECT_EQ(std::isnan(y.data<float>()[i]), i / n >= 1 && i / n <= 3) << n << ' ' << i;
      }
    }
  }
  const std::vector<float> one = {-3e38F};
  EXPECT_EQ(softmax(array::borrow(one, {1})).data<float>()[0], 1);
  EXPECT_EQ(softmax(array::empty({3, 0, 2}, Dtype::bfloat16), {1}).shape(), (Shape{3, 0, 2}));
}

}  // namespace
}  // namespace gqmm::conformance
