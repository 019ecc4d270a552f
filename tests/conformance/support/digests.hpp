// Digests of the results of every operator. They are the same wherever the library runs, on every instruction set, as long as
// numerics_contract() is the same. The folder contract has them, in a file for each version.
#pragma once

#include <gqmm/gqmm.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace gqmm::conformance {

/// FNV-1a of 64 bits.
class Hash {
 public:
  void add(std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) {
      value_ = (value_ ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3U;
    }
  }
  template <class T>
  void add(const std::vector<T>& values) {
    add(std::as_bytes(std::span(values)));
  }
  void add(std::uint64_t value) { add(std::as_bytes(std::span(&value, 1))); }
  /// The elements in row-major order, whatever the strides.
  void add(const array& a);
  [[nodiscard]] std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325U;
};

/// A call of an operator.
struct DigestProblem {
  std::string description = {};           ///< a line for messages
  std::uint64_t operands = 0;             ///< the digest of the operands
  std::function<std::uint64_t()> result;  ///< calls the operator on the active instruction set; returns the digest of its results
};

/// Calls of one kind, whose digests stand in one line of the file.
struct DigestCase {
  std::string name;  ///< "affine_4bit_g64_transposed_float16", "moe_ffn"
  int problems = 0;
  std::function<DigestProblem(int)> problem;
};

/// gather_qmm and gather_mm: every format, group size, order of w and type of x, in every precision, packed and in place, with
/// exceptional values and without, with 1 … 24 rows for an expert.
std::vector<DigestCase> product_cases();
/// All other operators, and gradients.
std::vector<DigestCase> operator_cases();
/// All of these, in an order that every build agrees on.
std::vector<DigestCase> digest_cases();

/// A line of the file.
struct Digest {
  std::uint64_t operands = 0;
  std::uint64_t result = 0;
  bool operator==(const Digest&) const = default;
};

/// The digests of a case on the active instruction set.
Digest digest_of(const DigestCase& of);

}  // namespace gqmm::conformance
