// From the caller's arrays and options to a Problem: all validation, promotion, broadcasting and allocation happens here, and
// nowhere below. Functions throw std::invalid_argument before anything is written.
#pragma once

#include "plan/problem.hpp"

#include <gqmm/ops.hpp>

#include <vector>

namespace gqmm {

/// A Problem with everything that it points into, except packed weights, which the caller keeps.
struct Lowered {
  Problem problem;
  array result;  // of the caller's shape; problem.y is its memory
  std::vector<std::int64_t> lhs;
  std::vector<std::int64_t> rhs;
  std::vector<array> operands;  // keeps the memory that the problem reads alive, contiguous copies included

  Lowered() = default;
  Lowered(Lowered&&) = default;
  Lowered& operator=(Lowered&&) = default;
  Lowered(const Lowered&) = delete;
  Lowered& operator=(const Lowered&) = delete;
};

Lowered lower_gather_qmm(const array& x, const array& w, const GatherQmmOptions& options);
Lowered lower_gather_qmm(const array& x, const PackedWeights& w, const GatherQmmOptions& options);
Lowered lower_quantized_matmul(const array& x, const array& w, const GatherQmmOptions& options);
Lowered lower_quantized_matmul(const array& x, const PackedWeights& w, const GatherQmmOptions& options);
Lowered lower_gather_mm(const array& a, const array& b, const GatherMmOptions& options);

}  // namespace gqmm
