// Rows of activations, prepared once for all experts that use them. Preparing cuts a row into slices for the integer path, or
// widens it to float32.
#pragma once

#include "arrays/matrix_batch.hpp"
#include "cpu/call_context.hpp"
#include "cpu/weight_view.hpp"
#include "plan/plan.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace gqmm::cpu {

/// The source of the rows: a batch of matrices with M rows of K elements, and for every pair the matrix that it multiplies. A
/// pair with a negative number multiplies none.
struct RowSource {
  const MatrixBatch& matrices;  // (count, M, K), a compute float, rows without gaps
  std::span<const std::int64_t> matrix_of_pair;
  std::int64_t M;
  std::int64_t K;
  bool every_matrix = false;  // some pair multiplies it, so there is nothing to select
};

/// The form in which the kernels of a product read rows.
struct RowForm {
  int slices = 0;         // 8-bit slices of each element; 0 means float32
  int group_size = 0;     // number of elements that share an exponent
  bool biased = true;     // the weights' format has biases
  int offset = 0;         // the offset of the format's codes, if it has no biases
  bool even_odd = false;  // within each 8 k, even k come before odd k, as the format's kernels expect

  friend bool operator==(const RowForm&, const RowForm&) = default;
};

/// The form that a product over these weights needs. Products with equal forms can share rows.
[[nodiscard]] RowForm row_form(const KernelPlan& plan, const WeightView& weights);

class PreparedRows {
 public:
  /// Takes its memory from the call. The matrices and the numbers of the pairs' matrices must outlive this object.
  PreparedRows(CallContext& call, const RowSource& source, const RowForm& form);
  PreparedRows(const PreparedRows&) = delete;
  PreparedRows& operator=(const PreparedRows&) = delete;

  /// The number of distinct rows. prepare(i) makes row i ready and may run on any thread.
  [[nodiscard]] std::int64_t count() const noexcept { return matrices_ * source_.M; }
  void prepare(std::int64_t row);

  [[nodiscard]] const RowForm& form() const noexcept { return form_; }
  /// The number of rows of each matrix.
  [[nodiscard]] std::int64_t M() const noexcept { return source_.M; }
  /// The number of the prepared row that row `m` of pair `pair` multiplies.
  [[nodiscard]] std::int64_t row_of(std::int64_t pair, std::int64_t m) const { return position_of_pair_[pair] * source_.M + m; }
  /// The slices of a row: [group][step][slice] words of 4 bytes.
  [[nodiscard]] const std::int32_t* words(std::int64_t row) const { return words_ + row * words_stride_; }
  /// The scales of the slices of a row, from `group` on (x_scales_of_group floats for each group).
  [[nodiscard]] const float* scales(std::int64_t row, std::int64_t group = 0) const {
    return scales_ + row * scales_stride_ + group * group_scales_;
  }
  [[nodiscard]] const float* floats(std::int64_t row) const { return floats_ + row * floats_stride_; }
  /// Whether any group of the row is exceptional, that is, needs the float path.
  [[nodiscard]] bool any_exceptional(std::int64_t row) const { return any_exceptional_[row] != 0; }
  [[nodiscard]] bool is_exceptional(std::int64_t row, std::int64_t group) const {
    return exceptional_[row * groups_ + group] != 0;
  }
  /// Converts the elements [k0, k0 + count) of a row to float32.
  void widen(std::int64_t row, std::int64_t k0, std::int64_t count, float* out) const;

 private:
  void find_distinct(CallContext& call);
  [[nodiscard]] const std::byte* address_of(std::int64_t row) const {
    const std::int64_t matrix = row / source_.M;
    return source_.matrices.row(distinct_ == nullptr ? matrix : distinct_[matrix], row % source_.M);
  }

  const RowSource source_;
  const RowForm form_;
  const KernelTable& kernels_;
  std::int64_t groups_ = 0;
  std::int64_t matrices_ = 0;                       // the number of distinct ones
  const std::int64_t* distinct_ = nullptr;          // their flat positions in the batch; nullptr if these are 0, 1, …
  const std::int64_t* position_of_pair_ = nullptr;  // for each pair, the number of its matrix among them
  std::int64_t words_stride_ = 0;
  std::int64_t scales_stride_ = 0;
  std::int64_t group_scales_ = 0;
  std::int64_t floats_stride_ = 0;
  std::int32_t* words_ = nullptr;
  float* scales_ = nullptr;
  float* floats_ = nullptr;
  std::uint8_t* exceptional_ = nullptr;      // [row][group]
  std::uint8_t* any_exceptional_ = nullptr;  // [row]
};

}  // namespace gqmm::cpu
