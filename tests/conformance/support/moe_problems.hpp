// Calls of moe_ffn made from a short description and a seed.
#pragma once

#include "conformance/support/random.hpp"
#include "formats/format.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

/// How a layer is stored.
struct Storage {
  const Format* format = nullptr;  // nullptr: dense
  int group_size = 0;
  Dtype dtype = Dtype::float32;  // of scales, or of dense matrices
  bool packed = false;
  bool transpose = true;
};

/// A whole call.
struct MoeSpec {
  std::int64_t tokens = 3;
  std::int64_t k = 2;
  std::int64_t experts = 4;
  std::int64_t H = 64;
  std::int64_t I = 64;
  Dtype dtype = Dtype::float32;
  Precision precision = Precision::standard;
  Activation activation = SwiGLU();
  bool separate_up = true;
  GateUpOrder order = GateUpOrder::gate_up;
  bool biases = false;
  bool shared = false;
  std::int64_t shared_I = 32;
  Storage gate;
  Storage up;
  Storage down;
  std::uint64_t seed = 1;
};

/// One line from which the call can be made again.
std::string describe(const MoeSpec& spec);

/// The operands of a call of moe_ffn.
struct MoeOperands {
  array x;
  array ids;
  std::optional<array> weights;
  ExpertWeights gate;
  std::optional<ExpertWeights> up;
  ExpertWeights down;
  MoeFfnOptions options;

  [[nodiscard]] array call() const { return moe_ffn(x, ids, weights, gate, up, down, options); }
  [[nodiscard]] array call_with(const std::function<void(MoeOperands&)>& change) const {
    MoeOperands other = *this;
    change(other);
    return other.call();
  }
};

/// Normally distributed values of this deviation, rounded to `dtype`.
array floats(const Shape& shape, Dtype dtype, double deviation, Random& random);

/// The operands of a spec.
MoeOperands make(const MoeSpec& spec);

/// A small call of any kind.
MoeSpec random_moe(std::uint64_t seed);

/// The rows `order` of an array whose first dimension counts tokens.
array rows(const array& a, const std::vector<std::int64_t>& order);
/// Makes a call of some tokens of another one.
void take_tokens(MoeOperands& operands, const std::vector<std::int64_t>& order);

/// The element of a result that is furthest from the reference.
struct MoeJudgement {
  double worst = 0;  ///< its error as a fraction of the bound
  std::int64_t at = 0;
  double expected = 0;
  float actual = 0;
  double bound = 0;
};
/// Compares every element of y, the result of the call, with the reference of src/reference/moe.hpp.
MoeJudgement judge(const MoeOperands& operands, const array& y);
/// Success if every element keeps its bound, else the worst one, both values and the bound.
::testing::AssertionResult keeps(const MoeJudgement& judgement);

}  // namespace gqmm::conformance
