// Digests of many small problems and of their results. They are the same wherever the library runs, so a build for a slow
// (emulated) processor is compared with a fast one instead of with a reference of its own.
#pragma once

#include "conformance/support/problems.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

/// Every format, group size, order of w and type of x in every precision, in an order that every build agrees on.
struct Family {
  std::string name;  ///< "affine_4bit_g64_transposed_float16"
  const Format* format;
  int group_size;
  Dtype x_dtype;
  bool transpose;
};
std::vector<Family> digest_families();

struct Digest {
  std::uint64_t operands;
  std::uint64_t result;
  bool operator==(const Digest&) const = default;
};

inline constexpr int problems_of_a_family = 48;

/// Problem number `problem` of a family: in the precisions in turn, packed or in place, with exceptional values or without, with
/// 1 … 24 rows for an expert.
struct DigestProblem {
  DigestProblem(const Family& family, int problem);
  /// Runs it on the active instruction set.
  [[nodiscard]] Digest digest() const;

  Spec spec;
  bool packed;
  std::uint64_t operands_digest;
  Operands operands;
};

}  // namespace gqmm::conformance
