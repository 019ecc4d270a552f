#include "conformance/support/digests.hpp"

#include "conformance/support/attention_operands.hpp"

#include <iterator>
#include <utility>

namespace gqmm::conformance {

void Hash::add(const array& a) {
  const array row_major = copied(a);
  add(std::span(row_major.bytes(), row_major.nbytes()));
}

std::vector<DigestCase> digest_cases() {
  std::vector<DigestCase> cases = product_cases();
  std::vector<DigestCase> others = operator_cases();
  cases.insert(cases.end(), std::make_move_iterator(others.begin()), std::make_move_iterator(others.end()));
  return cases;
}

Digest digest_of(const DigestCase& of) {
  Hash operands;
  Hash results;
  for (int number = 0; number < of.problems; ++number) {
    const DigestProblem problem = of.problem(number);
    operands.add(problem.operands);
    results.add(problem.result());
  }
  return {.operands = operands.value(), .result = results.value()};
}

}  // namespace gqmm::conformance
