// One work item: a block of the result, computed into a buffer and written out.
#pragma once

#include "cpu/activations.hpp"
#include "cpu/line_queue.hpp"
#include "cpu/weights.hpp"
#include "plan/routing.hpp"
#include "plan/tiling.hpp"

#include <vector>

namespace gqmm::cpu {

/// Up to so many rows, the GEMV kernels in several passes of four cost less than packing a panel. Time in place of a panel and
/// tiles, Zen 4, 1 / 2 / 3 slices: 8 rows −28, −15, −7 %; 12 rows −9, 0, +8 %; 16 rows +3, +9, +10 %.
inline constexpr std::int64_t few_rows = 8;

/// Rows that GEMV kernels may compute beyond those that there are, rather than be called twice: for 3 of 4, or 14 of 16.
inline constexpr std::int64_t padding_rows = 2;

/// What a float GEMV kernel takes: 2^size rows of a block of the result.
struct RowChunk {
  std::int64_t first;
  int size;
  const float* x;  // [K][2^size]
};

/// Does the problem run on integers, exceptional groups apart?
[[nodiscard]] bool has_integer_path(const Problem& problem);

class Product {
 public:
  Product(const Problem& problem, const KernelTable& kernels, const Routing& routing, const Activations& x,
          const Weights& weights)
      : problem_(problem), kernels_(kernels), routing_(routing), x_(x), weights_(weights) {}

  /// Computes an item. `next` is what this thread will probably do next (nullptr: nothing): its weights are prefetched.
  void run(const Item& item, const Item* next) const;

 private:
  /// What a thread keeps between items.
  struct ThreadScratch {
    Scratch codes;
    Scratch scales;
    Scratch c;
    Scratch floats;
    std::vector<std::int64_t> x_rows;
    std::vector<std::uint32_t> exceptional_lanes;
    std::vector<const float*> x;
    std::vector<float*> c_rows;
  };
  /// An item, its rows, the buffer of its result, and the thread's memory.
  struct Block {
    const Item& item;
    std::int64_t c_stride;                          // floats: strips · 16
    float* c;                                       // [rows][c_stride]
    std::vector<std::int64_t>& x_rows;              // rows of Activations
    std::vector<std::uint32_t>& exceptional_lanes;  // per strip
    ThreadScratch& scratch;

    [[nodiscard]] float* row(std::int64_t r) const { return c + r * c_stride; }
  };

  void integer_gemv(const Block& block, const Item* next) const;
  void integer_gemm(const Block& block, const Item* next) const;
  void multiply_panel(const Block& block, std::int64_t first, std::int64_t strips, const Ahead& ahead) const;
  void add_exceptional_groups(const Block& block) const;
  void redo_exceptional_outputs(const Block& block) const;
  void float_product(const Block& block, const Item* next) const;
  void float_gemm(const Block& block, const Item* next) const;
  void float_gemv(const Block& block, const Item* next) const;
  void float_gemv_along_n(const Block& block) const;
  [[nodiscard]] std::vector<RowChunk> interleaved(const Block& block) const;
  void float_gemm_along_n(const Block& block) const;
  void multiply_floats(std::int64_t strip, std::int64_t strips, const float* panel, std::int64_t k, const float* const* x,
                       float* const* c, std::int64_t rows, LineQueue& lines_ahead) const;
  [[nodiscard]] std::int64_t float_tiles(std::int64_t rows) const;
  void multiply_block(const Block& block, std::int64_t s, std::int64_t strips, std::int64_t k0, std::int64_t k,
                      const float* panel, LineQueue& lines_ahead) const;
  void write(const Block& block) const;

  const Problem& problem_;
  const KernelTable& kernels_;
  const Routing& routing_;
  const Activations& x_;
  const Weights& weights_;
};

}  // namespace gqmm::cpu
