#include "cpu/backend.hpp"

#include "reference/reference.hpp"

namespace gqmm::cpu {

void run(const Problem& problem) {
  std::byte* y = problem.y;
  for (std::size_t pair = 0; pair < problem.rhs.size(); ++pair) {
    for (std::int64_t m = 0; m < problem.M; ++m) {
      for (std::int64_t n = 0; n < problem.N; ++n) {
        const ReferenceValue value = reference_value(problem, static_cast<std::int64_t>(pair), m, n);
        store_float(y, problem.y_dtype, static_cast<float>(value.y));
        y += size_of(problem.y_dtype);
      }
    }
  }
}

}  // namespace gqmm::cpu
