// This file computes one work item of a product: a block of the result, as float32 in a buffer. The caller's epilogue then
// decides what happens to the block.
#pragma once

#include "cpu/prefetch_queue.hpp"
#include "cpu/prepared_rows.hpp"
#include "cpu/scratch.hpp"
#include "cpu/weight_view.hpp"
#include "plan/plan.hpp"
#include "plan/routing.hpp"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace gqmm::cpu {

/// The most rows that a GEMV kernel computes in vain. The buffer of an item's result has room for them. For example, 14 rows take
/// the kernel for 16, because that costs less than a second pass.
inline constexpr std::int64_t padding_rows = 2;

/// The rows of an item that one pass of a float GEMV kernel multiplies: 2^size of them.
struct GemvPass {
  std::int64_t first;
  int size;
  const float* x;  // [K][2^size]
};

/// A finished block of the result in float32, before anything is rounded. An epilogue may change the values.
class ResultBlock {
 public:
  ResultBlock(const Item& item, const Routing& routing, std::int64_t M, std::int64_t N, float* values, std::int64_t stride)
      : item_(item), routing_(routing), M_(M), N_(N), values_(values), stride_(stride) {}

  [[nodiscard]] std::int64_t expert() const { return item_.expert; }
  [[nodiscard]] std::int64_t rows() const { return item_.rows; }
  /// The number of row `r` in the whole result: pair · M + m.
  [[nodiscard]] std::int64_t result_row(std::int64_t r) const {
    const std::int64_t row = item_.first_row + r;
    return routing_.order[static_cast<std::size_t>(row / M_)] * M_ + row % M_;
  }
  /// The values of row `r` for the outputs [first_output, first_output + outputs).
  [[nodiscard]] float* row(std::int64_t r) const { return values_ + r * stride_; }
  [[nodiscard]] std::int64_t first_output() const { return item_.first_strip * lanes; }
  [[nodiscard]] std::int64_t outputs() const { return std::min(item_.strips * lanes, N_ - first_output()); }

 private:
  const Item& item_;
  const Routing& routing_;
  std::int64_t M_;
  std::int64_t N_;
  float* values_;
  std::int64_t stride_;
};

/// The epilogue of a plain product. It rounds blocks into a row-major result of shape (pairs · M, N). Every NaN becomes
/// canonical.
class RoundIntoResult {
 public:
  RoundIntoResult(const KernelTable& kernels, std::byte* y, Dtype dtype, std::int64_t N)
      : kernels_(kernels), y_(y), dtype_(dtype), N_(N) {}
  void operator()(const ResultBlock& tile) const;

 private:
  const KernelTable& kernels_;
  std::byte* y_;
  Dtype dtype_;
  std::int64_t N_;
};

/// The products of all experts that are hit. All constructor arguments must outlive this object.
class ExpertProduct {
 public:
  ExpertProduct(const KernelTable& kernels, const KernelPlan& plan, const Routing& routing, const PreparedRows& rows,
                const WeightView& weights)
      : kernels_(kernels), plan_(plan), routing_(routing), rows_(rows), weights_(weights) {}

  /// Computes an item and calls epilogue(ResultBlock). `next` is the item that this thread will probably run next, or nullptr;
  /// its weights are prefetched. An epilogue may run items of other products on this thread, and the block keeps its values
  /// meanwhile.
  template <class Epilogue>
  void run(const Item& item, const Item* next, const Epilogue& epilogue) const {
    const ThreadCached<ItemScratch> scratch;
    const ItemWork work = begin(item, *scratch);
    compute(work, next);
    epilogue(ResultBlock(item, routing_, rows_.M(), weights_.N(), work.c, work.c_stride));
  }

 private:
  /// The memory that an item works in.
  struct ItemScratch {
    Scratch codes;
    Scratch scales;
    Scratch c;
    Scratch floats;
    std::vector<std::int64_t> rows;
    std::vector<std::uint32_t> exceptional_lanes;
    std::vector<const float*> x;
    std::vector<float*> c_rows;
  };
  /// An item while it runs: its rows, the buffer of its result and its memory.
  struct ItemWork {
    const Item& item;
    std::int64_t c_stride;                          // in floats: strips · 16
    float* c;                                       // [rows][c_stride]
    std::vector<std::int64_t>& rows;                // row numbers in PreparedRows
    std::vector<std::uint32_t>& exceptional_lanes;  // one bit mask per strip
    ItemScratch& scratch;

    [[nodiscard]] float* row(std::int64_t r) const { return c + r * c_stride; }
  };

  [[nodiscard]] ItemWork begin(const Item& item, ItemScratch& scratch) const;
  void compute(const ItemWork& work, const Item* next) const;
  void integer_gemv(const ItemWork& work, const Item* next) const;
  void integer_gemm(const ItemWork& work, const Item* next) const;
  void multiply_panel(const ItemWork& work, std::int64_t first, std::int64_t strips, const PrefetchRanges& ranges) const;
  void add_exceptional_groups(const ItemWork& work) const;
  void redo_exceptional_outputs(const ItemWork& work) const;
  static void clear(const ItemWork& work);
  void float_gemm(const ItemWork& work, const Item* next) const;
  void float_gemv(const ItemWork& work, const Item* next) const;
  void float_gemv_along_n(const ItemWork& work) const;
  [[nodiscard]] std::vector<GemvPass> interleaved(const ItemWork& work) const;
  void float_gemm_along_n(const ItemWork& work) const;
  void multiply_floats(std::int64_t strip, std::int64_t strips, const float* panel, std::int64_t k, const float* const* x,
                       float* const* c, std::int64_t rows, PrefetchQueue& prefetches) const;
  [[nodiscard]] std::int64_t float_tiles(std::int64_t rows) const;
  void multiply_block(const ItemWork& work, std::int64_t s, std::int64_t strips, std::int64_t k0, std::int64_t k,
                      const float* panel, PrefetchQueue& prefetches) const;

  const KernelTable& kernels_;
  const KernelPlan& plan_;
  const Routing& routing_;
  const PreparedRows& rows_;
  const WeightView& weights_;
};

}  // namespace gqmm::cpu
