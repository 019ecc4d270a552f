// Prints the digests of this machine's results: the file of numerics_contract() in the folder contract. With the name of a case
// it prints a line for each problem of that case, to be compared between machines, builds and instruction sets (GQMM_ISA).
#include "conformance/support/digests.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <string_view>

int main(int argc, char** argv) {
  using namespace gqmm::conformance;
  const std::string_view wanted = argc > 1 ? argv[1] : "";
  bool found = wanted.empty();
  for (const DigestCase& each : digest_cases()) {
    if (wanted.empty()) {
      const Digest digest = digest_of(each);
      fmt::print("{} {:016x} {:016x}\n", each.name, digest.operands, digest.result);
    } else if (each.name == wanted) {
      found = true;
      for (int number = 0; number < each.problems; ++number) {
        const DigestProblem problem = each.problem(number);
        fmt::print("{} {:016x} {:016x} {}\n", number, problem.operands, problem.result(), problem.description);
      }
    }
  }
  if (!found) {
    fmt::print(stderr, "there is no case {}; without an argument, all of them are printed\n", wanted);
    return 2;
  }
}
