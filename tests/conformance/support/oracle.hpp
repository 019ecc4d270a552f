// Every output of a problem in double precision: what reference_value gives, but each weight is decoded once per expert and the
// group sums are shared, so that whole suites can afford it.
#pragma once

#include "plan/problem.hpp"
#include "reference/reference.hpp"

#include <cstdint>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

class Oracle {
 public:
  /// Evaluates the whole problem. It does not depend on slices, threads or the type of y.
  explicit Oracle(const Problem& problem);

  [[nodiscard]] const ReferenceValue& at(std::int64_t pair, std::int64_t m, std::int64_t n) const {
    return values_[static_cast<std::size_t>((pair * M_ + m) * N_ + n)];
  }

 private:
  std::int64_t M_;
  std::int64_t N_;
  std::vector<ReferenceValue> values_;
};

}  // namespace gqmm::conformance
