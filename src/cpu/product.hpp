// One work item: a block of the result, computed into a buffer and written out.
#pragma once

#include "cpu/activations.hpp"
#include "cpu/weights.hpp"
#include "plan/routing.hpp"
#include "plan/tiling.hpp"

namespace gqmm::cpu {

/// k in a block of the float path: sums run over 128 products, then join y. The largest group is 128, and the panel of a strip is
/// 8 KiB: three strips and 8 rows of x are 28 KiB, which stay in L1. Results depend on it (docs/numerics.md).
inline constexpr std::int64_t float_block = 128;

/// Up to so many rows, the GEMV kernels in several passes of four cost less than packing a panel. Time in place of a panel and
/// tiles, Zen 4, 1 / 2 / 3 slices: 8 rows −28, −15, −7 %; 12 rows −9, 0, +8 %; 16 rows +3, +9, +10 %.
inline constexpr std::int64_t few_rows = 8;

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
  struct Block;  // the item's rows, its buffer and the thread's scratch memory

  void integer_gemv(const Block& block, const Item* next) const;
  void integer_gemm(const Block& block, const Item* next) const;
  [[nodiscard]] Ahead ahead(const Item& item, std::int64_t s, const Item* next, std::int64_t count) const;
  void multiply_panel(const Block& block, std::int64_t first, std::int64_t strips, const Ahead& ahead) const;
  void add_exceptional_groups(const Block& block) const;
  void redo_exceptional_outputs(const Block& block) const;
  void float_product(const Block& block) const;
  void multiply_floats(std::int64_t strip, std::int64_t strips, const float* panel, std::int64_t k, const float* const* x,
                       float* const* c, std::int64_t rows) const;
  void write(const Block& block) const;

  const Problem& problem_;
  const KernelTable& kernels_;
  const Routing& routing_;
  const Activations& x_;
  const Weights& weights_;
};

}  // namespace gqmm::cpu
