// Recurrences over tokens on the CPU: how their work is cut, and what all of them load and store.
#pragma once

#include "cpu/kernels/kernel_table.hpp"
#include "cpu/kernels/layer_table.hpp"
#include "plan/recurrence_problem.hpp"

#include <array>
#include <cstdint>
#include <functional>

namespace gqmm::cpu {

/// Tokens whose rows are converted together. They serve all columns of an item; 16 columns with their state stay in L1 for so
/// many tokens.
inline constexpr std::int64_t tokens_of_block = 16;

/// Tokens that count, ascending, for a head of v.
struct TokenBlock {
  std::int64_t head;
  std::int64_t count = 0;
  std::array<std::int64_t, tokens_of_block> tokens = {};  // numbers among the tokens of all sequences

  [[nodiscard]] std::int64_t operator[](std::int64_t i) const { return tokens[static_cast<std::size_t>(i)]; }
};

/// What one recurrence has that others have not.
struct Recurrence {
  void (*kernel)(const RecurrenceArguments&);
  std::int64_t g_stride;  // elements between the tokens of g
  /// Loads g and beta of a block's tokens. beta has room for 16.
  std::function<void(const KernelTable&, const TokenBlock&, float* g, float* beta)> load_gates;
  /// The factor of v that y has beside the state, for a head.
  std::function<float(const KernelTable&, std::int64_t head)> load_skip = [](const KernelTable&, std::int64_t) { return 0.0F; };
};

/// Elements of a row that is padded to whole vectors.
inline std::int64_t whole_vectors(std::int64_t n) { return (n + lanes - 1) / lanes * lanes; }
/// Loads elements of a matrix, and zeros up to whole vectors.
void load_padded_row(const KernelTable& kernels, const MatrixBatch& matrices, std::int64_t first, std::int64_t count, float* row);

/// Computes y and the next state. Throws as run of a Problem does (cpu/backend.hpp).
void run_recurrence(const RecurrenceProblem& problem, const Recurrence& recurrence);

}  // namespace gqmm::cpu
