// The weighted sum of each token's slots on the CPU.
#pragma once

#include "arrays/matrix_batch.hpp"
#include "cpu/kernels/kernel_table.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace gqmm::cpu {

/// The weighted sums of slots, y[token] = Σ_j weights[token, j] · slots[token, j], divided into items.
class SumOfSlots {
 public:
  /// Rows of a token's slots: `slot_stride` bytes apart, without gaps in a row.
  struct Rows {
    const std::byte* first;
    std::int64_t slot_stride;
    Dtype dtype;
  };
  /// `weights`: (tokens, k). `y`: row-major (tokens, H) of type `dtype`.
  SumOfSlots(const KernelTable& kernels, std::int64_t k, std::int64_t H, const float* weights, Dtype dtype, std::byte* y)
      : kernels_(kernels), k_(k), H_(H), weights_(weights), dtype_(dtype), y_(y) {}

  [[nodiscard]] std::int64_t items(std::int64_t tokens) const { return tokens * items_of_a_token(); }
  /// Computes an item. rows(token, first, n) returns the Rows of the outputs [first, first + n) of the token's slots.
  template <class RowsOf>
  void run(std::int64_t item, const RowsOf& rows_of) const {
    const std::int64_t token = item / items_of_a_token();
    const std::int64_t first = item % items_of_a_token() * item_outputs;
    const std::int64_t n = std::min(item_outputs, H_ - first);
    add_up(rows_of(token, first, n), token, first, n);
  }

 private:
  static constexpr std::int64_t item_outputs = 1024;  // at most; the sums are 4 KiB

  [[nodiscard]] std::int64_t items_of_a_token() const { return (H_ + item_outputs - 1) / item_outputs; }
  void add_up(const Rows& rows, std::int64_t token, std::int64_t first, std::int64_t n) const;

  const KernelTable& kernels_;
  std::int64_t k_;
  std::int64_t H_;
  const float* weights_;
  Dtype dtype_;
  std::byte* y_;
};

/// Arguments of moe_combine, y[token] = Σ_j weights[token, j] · slots[token, j].
struct CombineProblem {
  MatrixBatch slots;       // a (k, H) matrix for each token
  MatrixBatch weights;     // (tokens, k) in all
  std::byte* y = nullptr;  // row-major (tokens, H), of the type of slots
  int threads = 0;         // of the call's stream
};

/// Throws as run of a Problem does (cpu/backend.hpp). No extent may be 0.
void combine(const CombineProblem& problem);

}  // namespace gqmm::cpu
