// Running a problem into poisoned memory and judging the result.
#pragma once

#include "api/lower.hpp"
#include "conformance/support/oracle.hpp"
#include "conformance/support/problems.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

/// The names of the instruction sets that this machine runs.
std::vector<std::string> supported_instruction_sets();

/// Restores the instruction set in use at its construction.
class RestoreInstructionSet {
 public:
  RestoreInstructionSet() : name_(active_instruction_set()) {}
  ~RestoreInstructionSet() { set_instruction_set(name_); }
  RestoreInstructionSet(const RestoreInstructionSet&) = delete;
  RestoreInstructionSet& operator=(const RestoreInstructionSet&) = delete;

 private:
  std::string name_;
};

/// Shorter sweeps: in sanitizer builds, or when the environment has GQMM_CONFORMANCE=quick. "full" asks for all of it there too.
bool quick();

Lowered lower(const Operands& operands);
/// Calls the operator.
array call(const Operands& operands);

/// Calls the operator with memory of its own for the result: NaN before the call, an inaccessible page behind it. Fails the
/// test if an element was not written or a byte outside was. `packed`: multiplies by pack()ed weights instead.
array call_poisoned(const Operands& operands, const PackedWeights* packed = nullptr);
PackedWeights pack(const Operands& operands);

/// How far a result may lie from the reference.
struct Contract {
  double (*bound)(const Problem&, const ReferenceValue&);
  double (*fraction)(const Problem&, const ReferenceValue&, float y);
};
/// docs/reference/numerics.md
inline constexpr Contract error_contract = {error_bound, error_fraction};
/// For an outlier under a zero weight: 2û · Σ|x||ŵ| for the half types, 2^−17 · Σ|x||ŵ| for float32; and where the result is
/// subnormal, half of the smallest subnormal.
extern const Contract outlier_contract;

struct Judgement {
  double worst = -1;  ///< fraction of the bound; NaN counts as infinite
  std::int64_t pair = 0;
  std::int64_t m = 0;
  std::int64_t n = 0;
  float actual = 0;
  ReferenceValue expected;
  double bound = 0;
  std::int64_t unbounded = 0;  ///< outputs with an infinite bound
};

Judgement judge(const Problem& problem, const Oracle& oracle, const array& y, const Contract& contract = error_contract);

/// Success if every output keeps the contract, else the worst coordinate, both values and the bound.
::testing::AssertionResult keeps(const Judgement& judgement);

/// Success if both have the same shape, type and bits, else the first difference.
::testing::AssertionResult same_bits(const array& expected, const array& actual);

}  // namespace gqmm::conformance
