#include "plan/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <iterator>

namespace gqmm::detail {
namespace {

// Up to this many rows, several passes of the integer GEMV cost less than packing a panel. The passes change the time, relative
// to a panel and tiles, as follows (Zen 4, 1 / 2 / 3 slices): 8 rows −28, −15, −7 %; 12 rows −9, 0, +8 %; 16 rows +3, +9, +10 %.
constexpr std::int64_t integer_gemv_crossover = 8;
// Items are consecutive strips, so that prefetching is linear. Each thread gets many items, because threads even out their shares
// one item at a time. 8, 24 and 48 items per thread made no difference, as long as one token on two threads has more than two
// items.
constexpr std::int64_t items_per_thread = 24;
// The number of panels in an item. The outputs of an item are written together, a few lines of each row of the result at a time.
// 4 panels gained 1 to 3 % over 1; 8 gained no more.
constexpr std::int64_t panels_per_item = 4;
// mc: the most rows that share a packed panel. Packing costs as much as about 5 rows of one slice. With 64 and 128 rows, x would
// stay in L2 from panel to panel, but they were no faster (Zen 4, K of 2048 and 7168). So the number does not depend on the
// cache.
constexpr std::int64_t largest_mc = 256;
// The most multiply-adds of an item: 10 ms of a core with VNNI. A thread works for that long before it checks whether the call
// should stop. Only shapes with over a hundred million weights per expert, or with K above 20,000, come near this limit.
constexpr std::int64_t most_work_per_item = std::int64_t{1} << 30;
// The strips of an item for weights with rows along n. Such weights are read in contiguous ranges of k, and an item should take
// all outputs of a range.
constexpr std::int64_t strips_per_item_along_n = 48;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// The two paths of a product. Up to `crossover` rows, the GEMV is faster.
struct Paths {
  Path gemv;
  Path gemm;
  std::int64_t crossover;

  [[nodiscard]] Path of(std::int64_t rows) const { return rows <= crossover ? gemv : gemm; }
};

Paths paths_of(const WeightMatrices& weights, const KernelLimits& limits) {
  const QuantizedMatrices* matrices = quantized(weights);
  if (matrices == nullptr) {
    return {Path::float_gemm, Path::float_gemm, 0};
  }
  if (multiplies_integers(weights)) {
    return {Path::integer_gemv, Path::integer_gemm, integer_gemv_crossover};
  }
  const std::int64_t crossover = limits.float_gemv_crossover.of(matrices->transpose());
  return matrices->transpose() ? Paths{Path::float_gemv, Path::float_gemm, crossover}
                               : Paths{Path::float_gemv_along_n, Path::float_gemm_along_n, crossover};
}

TileSize tile_of(Path path, std::int64_t rows, const KernelLimits& limits) {
  switch (path) {
    case Path::integer_gemm: return limits.gemm_tile;
    case Path::float_gemm:
    case Path::float_gemm_along_n: return limits.float_tile;
    case Path::integer_gemv: return {static_cast<int>(std::min<std::int64_t>(rows, limits.gemv_rows)), 1};
    case Path::float_gemv:
    case Path::float_gemv_along_n: return {static_cast<int>(std::min<std::int64_t>(rows, limits.float_gemv_rows)), 1};
  }
  return {1, 1};
}

/// The sizes of the blocks that items are made of.
struct BlockSizes {
  std::int64_t mc;
  std::int64_t gemv_strips;  // nc / 16 for the GEMV, where few rows stream the weights
  std::int64_t gemm_strips;  // nc / 16 for the GEMM, in whole tiles
};

BlockSizes block_sizes(const PlannedProduct& product, const Paths& paths, const KernelLimits& limits, const Routing& routing,
                       int threads) {
  const std::int64_t strips = strips_of(product.N);
  const std::int64_t all_strips = static_cast<std::int64_t>(routing.segments.size()) * strips;
  // The most strips of an item that leave enough items for every thread.
  const auto at_most = [&](std::int64_t wanted) {
    return threads == 1 ? wanted : std::clamp<std::int64_t>(all_strips / (threads * items_per_thread), 1, wanted);
  };
  const std::int64_t tile = tile_of(paths.gemm, 0, limits).nv;
  const std::int64_t wanted = paths.gemm == Path::float_gemm_along_n || quantized(product.weights) == nullptr
                                  ? strips_per_item_along_n
                                  : tile * panels_per_item;
  const std::int64_t gemm_strips = std::max<std::int64_t>(1, at_most(wanted) / tile) * tile;
  const std::int64_t most_strip_rows = most_work_per_item / (strip_width * std::max<std::int64_t>(1, product.K));
  return {
      .mc = std::clamp<std::int64_t>(most_strip_rows / gemm_strips, 1, largest_mc),
      .gemv_strips = std::clamp<std::int64_t>(most_strip_rows / std::max<std::int64_t>(1, paths.crossover), 1, at_most(strips)),
      .gemm_strips = gemm_strips};
}

/// The rows of each block of a segment: at most `most`, and as even as possible, so that the whole segment takes one path.
std::int64_t rows_of_block(std::int64_t rows, std::int64_t most) { return divide_up(rows, divide_up(rows, most)); }

std::int64_t kc_of(const PlannedProduct& product, const KernelLimits& limits) {
  const std::int64_t group_size = quantized(product.weights)->group_size();
  const std::int64_t k = limits.panel_bytes / (limits.gemm_tile.nv * limits.panel_bytes_per_k);
  return std::max<std::int64_t>(1, k / group_size) * group_size;
}

void add_items(std::vector<Item>& items, const PlannedProduct& product, const Segment& segment, const Paths& paths,
               const BlockSizes& blocks) {
  const std::int64_t strips = strips_of(product.N);
  const std::int64_t first = segment.first * product.M;
  const std::int64_t rows = segment.last * product.M - first;
  const std::int64_t block_rows = rows_of_block(rows, blocks.mc);
  const Path path = paths.of(block_rows);
  const std::int64_t block_strips = block_rows <= paths.crossover ? blocks.gemv_strips : blocks.gemm_strips;
  for (std::int64_t row = 0; row < rows; row += block_rows) {
    for (std::int64_t strip = 0; strip < strips; strip += block_strips) {
      items.push_back({.expert = segment.expert,
                       .first_row = first + row,
                       .rows = std::min(block_rows, rows - row),
                       .first_strip = strip,
                       .strips = std::min(block_strips, strips - strip),
                       .path = path});
    }
  }
}

}  // namespace

std::string_view name_of(Path path) noexcept {
  constexpr std::array<std::string_view, 6> names = {"integer_gemv", "integer_gemm",       "float_gemv",
                                                     "float_gemm",   "float_gemv_along_n", "float_gemm_along_n"};
  return names[static_cast<std::size_t>(path)];
}

KernelPlan plan_kernels(const PlannedProduct& product, const KernelLimits& limits) {
  const bool integers = multiplies_integers(product.weights);
  return {.limits = limits, .slices = integers ? product.slices : 0, .kc = integers ? kc_of(product, limits) : 0};
}

Plan make_plan(const PlannedProduct& product, const KernelLimits& limits, const Routing& routing, int threads) {
  const Paths paths = paths_of(product.weights, limits);
  Plan plan = {plan_kernels(product, limits), threads, {}};
  const BlockSizes blocks = block_sizes(product, paths, limits, routing, threads);
  for (const Segment& segment : routing.segments) {
    add_items(plan.items, product, segment, paths, blocks);
  }
  return plan;
}

Path path_of(const WeightMatrices& weights, const KernelLimits& limits, std::int64_t rows) {
  return paths_of(weights, limits).of(rows);
}

std::vector<PlannedSegment> segments_of(const Plan& plan) {
  std::vector<PlannedSegment> segments;
  for (const Item& item : plan.items) {
    if (segments.empty() || segments.back().expert != item.expert) {
      segments.push_back({.expert = item.expert, .rows = 0, .path = item.path, .mr = 0, .nr = 0, .items = 0});
    }
    PlannedSegment& segment = segments.back();
    const TileSize tile = tile_of(item.path, item.rows, plan.limits);
    segment.mr = std::max(segment.mr, tile.mr);
    segment.nr = tile.nv * static_cast<int>(strip_width);
    segment.rows += item.first_strip == 0 ? item.rows : 0;
    ++segment.items;
  }
  return segments;
}

std::string to_string(const Plan& plan) {
  std::string text = fmt::format("{}, {} thread{}, ", plan.limits.isa, plan.threads, plan.threads == 1 ? "" : "s");
  text += plan.slices == 0 ? std::string("float32\n")
                           : fmt::format("{} slice{} of x, kc = {}\n", plan.slices, plan.slices == 1 ? "" : "s", plan.kc);
  text += fmt::format("{:>8} {:>8}  {:<18} {:>4} {:>4} {:>6}\n", "expert", "rows", "path", "mr", "nr", "items");
  for (const PlannedSegment& segment : segments_of(plan)) {
    fmt::format_to(std::back_inserter(text), "{:>8} {:>8}  {:<18} {:>4} {:>4} {:>6}\n", segment.expert, segment.rows,
                   name_of(segment.path), segment.mr, segment.nr, segment.items);
  }
  return text;
}

}  // namespace gqmm::detail
