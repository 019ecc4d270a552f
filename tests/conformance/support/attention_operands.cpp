#include "conformance/support/attention_operands.hpp"

#include "conformance/support/layout.hpp"
#include "formats/float_types.hpp"
#include "reference/attention.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>

namespace gqmm::conformance {

using namespace detail;

array normal(const Shape& shape, Dtype dtype, Random& random, double deviation) {
  array a = array::empty(shape, dtype);
  for (std::int64_t i = 0; i < a.size(); ++i) {
    store_float(a.mutable_bytes() + i * a.itemsize(), dtype, static_cast<float>(deviation * random.normal()));
  }
  return a;
}

array integers(const std::vector<std::int64_t>& values) {
  array a = array::empty({static_cast<std::int64_t>(values.size())}, Dtype::int64);
  std::copy(values.begin(), values.end(), a.mutable_data<std::int64_t>());
  return a;
}

array part(const array& a, std::size_t axis, std::int64_t first, std::int64_t count) {
  Shape shape = a.shape();
  shape[axis] = count;
  return array::borrow(a.bytes() + first * a.strides()[axis], shape, a.dtype(), a.strides(), a.owner());
}

array copied(const array& a) {
  array copy = array::empty(a.shape(), a.dtype());
  std::vector<std::int64_t> at(a.shape().size(), 0);
  for (std::int64_t i = 0; i < a.size(); ++i) {
    std::int64_t rest = i;
    std::int64_t offset = 0;
    for (std::size_t d = a.shape().size(); d-- > 0;) {
      offset += rest % a.shape()[d] * a.strides()[d];
      rest /= a.shape()[d];
    }
    std::copy_n(a.bytes() + offset, a.itemsize(), copy.mutable_bytes() + i * static_cast<std::int64_t>(a.itemsize()));
  }
  return copy;
}

array in_any_layout(const array& row_major, Random& random) {
  return lay_out(std::span(row_major.bytes(), row_major.nbytes()), row_major.shape(), row_major.dtype(),
                 random.one_of(all_layouts), random);
}

AttentionMask random_mask(const Shape& scores, Random& random) {
  const std::int64_t kind = random.integer(0, 3);
  if (kind == 0) {
    return {};
  }
  if (kind == 1) {
    return CausalMask();
  }
  const std::int64_t L = scores[3];
  const Shape shape = {random.chance(0.5) ? scores[0] : 1, random.chance(0.3) ? scores[1] : 1, random.chance(0.8) ? scores[2] : 1,
                       random.chance(0.9) ? L : 1};
  const double hidden = random.one_of({0.0, 0.02, 0.5, 0.97});
  const std::int64_t window = random.chance(0.5) ? random.integer(1, 200) : L;
  if (kind == 2) {
    return in_any_layout(
        bool_mask(shape, [&](std::int64_t, std::int64_t j) { return j >= L - window && !random.chance(hidden); }), random);
  }
  array mask = normal(shape, random.one_of(compute_types), random);
  for (std::int64_t i = 0; i < mask.size(); ++i) {
    if (i % shape[3] + window < shape[3] || random.chance(hidden)) {
      store_float(mask.mutable_bytes() + i * mask.itemsize(), mask.dtype(), -infinity);
    }
  }
  return in_any_layout(mask, random);
}

std::optional<array> random_origin(std::int64_t batch, std::int64_t L, Random& random) {
  if (!random.chance(0.3)) {
    return std::nullopt;
  }
  std::vector<std::int64_t> origins;
  for (std::int64_t b = 0; b < batch; ++b) {
    origins.push_back(random.integer(-300, L + 300));
  }
  return integers(origins);
}

double worst_fraction(const AttentionProblem& problem, const array& y, std::uint64_t seed) {
  Random random(seed);
  double worst = 0;
  for (int sample = 0; sample < 12; ++sample) {
    const std::int64_t b = random.integer(0, y.dim(0) - 1);
    const std::int64_t h = random.integer(0, y.dim(1) - 1);
    const std::int64_t t = random.integer(0, y.dim(2) - 1);
    const std::vector<AttentionReference> reference = reference_attention(problem, b, h, t);
    for (std::size_t d = 0; d < reference.size(); ++d) {
      const std::int64_t at = ((b * y.dim(1) + h) * y.dim(2) + t) * y.dim(3) + static_cast<std::int64_t>(d);
      const float actual = load_float(y.bytes() + at * static_cast<std::int64_t>(y.itemsize()), y.dtype());
      double fraction = std::fabs(static_cast<double>(actual) - reference[d].y) / reference[d].bound;
      if (std::isnan(reference[d].y)) {
        fraction = std::isnan(actual) ? 0 : infinity;
      } else if (std::isnan(actual)) {
        fraction = infinity;
      }
      EXPECT_LE(fraction, 1) << b << ' ' << h << ' ' << t << ' ' << d << ": " << actual << " instead of " << reference[d].y
                             << ", bound " << reference[d].bound;
      worst = std::max(worst, fraction);
    }
  }
  return worst;
}

}  // namespace gqmm::conformance
