// The plan of a product: which kernels run, on which blocks, in which order. One pure function makes the plan. Everything that
// runs, measures, explains or tests a product reads it.
#pragma once

#include "internal_api.hpp"
#include "plan/problem.hpp"
#include "plan/routing.hpp"
#include "plan/tile.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::detail {

/// The way in which the rows of an expert are computed.
enum class Path : std::uint8_t {
  integer_gemv,        ///< few rows: integer sums, straight from the weights in memory
  integer_gemm,        ///< integer tiles over a panel of codes that is packed once for all rows
  float_gemv,          ///< few rows of a format without an integer form: weights are dequantized in registers
  float_gemm,          ///< float tiles over a dequantized panel
  float_gemv_along_n,  ///< few rows, weights with rows along n
  float_gemm_along_n,  ///< float tiles, weights with rows along n
};

/// The name of the path: "integer_gemv" and so on.
[[nodiscard]] GQMM_INTERNAL_API std::string_view name_of(Path path) noexcept;

/// The limits that the kernels of an instruction set and this machine set for one product.
struct KernelLimits {
  std::string_view isa;  // name of the instruction set
  int gemv_rows;         // the most rows that the integer GEMV takes in one pass over a strip
  TileSize gemm_tile;    // tile of the integer GEMM, for the product's number of slices
  TileSize float_tile;   // tile of the float GEMM
  int float_gemv_rows;   // the most rows that one float GEMV kernel takes
  GemvCrossover float_gemv_crossover;
  std::int64_t panel_bytes_per_k;  // bytes of one k of a strip in a panel of codes
  std::int64_t panel_bytes;        // size of the part of a panel that should stay in L1 while the rows pass
};

/// A block of the result: some rows of one expert's segment × some strips of 16 outputs. Rows are counted over all pairs: pairs ×
/// M.
struct Item {
  std::int64_t expert;
  std::int64_t first_row;  // row r is matrix row r % M of the pair order[r / M]
  std::int64_t rows;
  std::int64_t first_strip;
  std::int64_t strips;
  Path path;
};

/// The cost of an item relative to others of its call. Reading and unpacking a strip costs about as much as multiplying two rows.
inline std::int64_t cost(const Item& item) { return (2 + item.rows) * item.strips; }

/// How the kernels of a product run, whatever its rows are.
struct KernelPlan {
  KernelLimits limits = {};
  int slices = 0;       // slices of each activation; 0 if the product runs in float32
  std::int64_t kc = 0;  // number of k in one call of an integer tile, in whole groups
};

struct Plan : KernelPlan {
  int threads = 1;  // number of threads that the items are cut for, the caller's included
  /// The items of one expert follow each other, so that its rows of x stay in the cache.
  std::vector<Item> items = {};

  /// Returns item number `i`, or nullptr for a negative number.
  [[nodiscard]] const Item* item(std::int64_t i) const { return i < 0 ? nullptr : &items[static_cast<std::size_t>(i)]; }
};

/// What a plan depends on besides its routing: a product of rows of K elements by weights of N outputs.
struct PlannedProduct {
  const WeightMatrices& weights;
  std::int64_t M;
  std::int64_t N;
  std::int64_t K;
  int slices;

  PlannedProduct(const Problem& problem)  // implicit: a problem is such a product, and more
      : weights(problem.weights), M(problem.M), N(problem.N), K(problem.K), slices(problem.slices) {}
  PlannedProduct(const WeightMatrices& of, std::int64_t rows, std::int64_t outputs, std::int64_t inputs, int slices_of_x)
      : weights(of), M(rows), N(outputs), K(inputs), slices(slices_of_x) {}
};

/// Makes the part of the plan that does not depend on the rows.
[[nodiscard]] KernelPlan plan_kernels(const PlannedProduct& product, const KernelLimits& limits);

/// Makes the plan. `threads` is the number of threads that may work on the product, at least 1. The function is pure and reads no
/// data of the product.
[[nodiscard]] Plan make_plan(const PlannedProduct& product, const KernelLimits& limits, const Routing& routing, int threads);

/// The path that a block of `rows` rows takes in a product over these weights.
[[nodiscard]] Path path_of(const WeightMatrices& weights, const KernelLimits& limits, std::int64_t rows);

/// The part of a plan that concerns one expert.
struct PlannedSegment {
  std::int64_t expert;
  std::int64_t rows;
  Path path;
  int mr;  // the most rows of a register tile
  int nr;  // number of outputs of a register tile
  std::int64_t items;
};

/// Summarizes the plan for each expert that is hit, in ascending order.
[[nodiscard]] GQMM_INTERNAL_API std::vector<PlannedSegment> segments_of(const Plan& plan);

/// Prints the plan: one line about the product, then a table of the experts.
[[nodiscard]] GQMM_INTERNAL_API std::string to_string(const Plan& plan);

}  // namespace gqmm::detail
