// Prints the digests of this machine's results, a line for each problem (support/digests.hpp).
#include "conformance/support/digests.hpp"

#include <fmt/format.h>

int main() {
  using namespace gqmm::conformance;
  for (const Family& family : digest_families()) {
    for (int problem = 0; problem < problems_of_a_family; ++problem) {
      const Digest digest = DigestProblem(family, problem).digest();
      fmt::print("{} {} {:016x} {:016x}\n", family.name, problem, digest.operands, digest.result);
    }
  }
}
