// The float path of a product: decode (GEMV), and GEMM tiles over a dequantized panel.
#include "cpu/expert_product.hpp"
#include "cpu/processor.hpp"
#include "cpu/strip_prefetch.hpp"

#include <algorithm>
#include <array>
#include <bit>

namespace gqmm::cpu {

// Sets the result buffer to zero, because these kernels add to it: the tiles, and the GEMV for weights along N.
void ExpertProduct::clear(const ItemWork& work) { std::fill_n(work.c, (work.item.rows + padding_rows) * work.c_stride, 0.0F); }

// Goes through the strips panel by panel, and through each panel in blocks of k.
void ExpertProduct::float_gemm(const ItemWork& work, const Item* next) const {
  clear(work);
  const Item& item = work.item;
  const std::int64_t width = plan_.limits.float_tile.nv;
  float* panel = work.scratch.floats.take<float>(width, float_block * lanes);
  const UpcomingStrips upcoming(weights_, item, next);
  for (std::int64_t s = 0; s < item.strips; s += width) {
    const std::int64_t strips = std::min(width, item.strips - s);
    PrefetchQueue prefetches(upcoming.ranges(s + width, width), float_tiles(item.rows) * weights_.K() / prefetch_k);
    for (std::int64_t k0 = 0; k0 < weights_.K(); k0 += float_block) {
      const std::int64_t k = std::min(float_block, weights_.K() - k0);
      weights_.dequantize(item.expert, item.first_strip + s, strips, k0, k, panel);
      multiply_block(work, s, strips, k0, k, panel, prefetches);
    }
  }
}

// The rows of these weights are k, so a block of k is contiguous memory and each panel is a part of it. The loop over k is
// therefore the outer one.
void ExpertProduct::float_gemm_along_n(const ItemWork& work) const {
  clear(work);
  const Item& item = work.item;
  const std::int64_t width = plan_.limits.float_tile.nv;
  const std::int64_t panels = (item.strips + width - 1) / width;
  float* panel = work.scratch.floats.take<float>(width, float_block * lanes);
  auto* memory = work.scratch.scales.take<float>(weights_.block_along_n_size(item.strips, float_block));
  for (std::int64_t k0 = 0; k0 < weights_.K(); k0 += float_block) {
    const std::int64_t k = std::min(float_block, weights_.K() - k0);
    const BlockAlongN rows = weights_.block_along_n(item.expert, item.first_strip, item.strips, k0, k, memory);
    PrefetchQueue prefetches(weights_.ranges_along_n(item.expert, k0 + k, float_block),
                             panels * float_tiles(item.rows) * k / prefetch_k);
    for (std::int64_t s = 0; s < item.strips; s += width) {
      const std::int64_t strips = std::min(width, item.strips - s);
      weights_.dequantize(rows, item.first_strip + s, strips, k, panel);
      multiply_block(work, s, strips, k0, k, panel, prefetches);
    }
  }
}

/// The number of tiles that `rows` rows take.
std::int64_t ExpertProduct::float_tiles(std::int64_t rows) const {
  return (rows + plan_.limits.float_tile.mr - 1) / plan_.limits.float_tile.mr;
}

/// Multiplies the item's rows by a panel of the strips [s, s + strips) and of k in [k0, k0 + k).
void ExpertProduct::multiply_block(const ItemWork& work, std::int64_t s, std::int64_t strips, std::int64_t k0, std::int64_t k,
                                   const float* panel, PrefetchQueue& prefetches) const {
  const auto rows = static_cast<std::size_t>(work.item.rows);
  std::vector<const float*>& x = work.scratch.x;
  std::vector<float*>& c = work.scratch.c_rows;
  x.resize(rows);
  c.resize(rows);
  for (std::size_t r = 0; r < rows; ++r) {
    x[r] = rows_.floats(work.rows[r]) + k0;
    c[r] = work.row(static_cast<std::int64_t>(r));
  }
  multiply_floats(s, strips, panel, k, x.data(), c.data(), work.item.rows, prefetches);
}

// Goes through the strips, and multiplies each strip by the rows in one or more passes.
void ExpertProduct::float_gemv(const ItemWork& work, const Item* next) const {
  const auto& kernels = weights_.format_kernels().float_gemv;
  const std::vector<GemvPass> passes = interleaved(work);
  StripStream stream;
  const auto multiply = [&](std::int64_t s, std::int64_t pass) {
    const GemvPass& gemv = passes[static_cast<std::size_t>(pass)];
    kernels[gemv.size](stream,
                       {.x = gemv.x, .k = weights_.K(), .c = work.row(gemv.first) + s * lanes, .c_stride = work.c_stride});
  };
  for_each_strip(weights_, work.item, next, static_cast<std::int64_t>(passes.size()), processor().decode_prefetches_to_l2, stream,
                 multiply);
}

// The rows of these weights are k, so a block of k is contiguous memory that all strips and rows of x share. The loop over k is
// therefore the outer one.
void ExpertProduct::float_gemv_along_n(const ItemWork& work) const {
  clear(work);
  const Item& item = work.item;
  const FormatKernels& format = weights_.format_kernels();
  const std::vector<GemvPass> passes = interleaved(work);
  auto* memory = work.scratch.scales.take<float>(weights_.block_along_n_size(item.strips, float_block));
  for (std::int64_t k0 = 0; k0 < weights_.K(); k0 += float_block) {
    const std::int64_t k = std::min(float_block, weights_.K() - k0);
    const BlockAlongN rows = weights_.block_along_n(item.expert, item.first_strip, item.strips, k0, k, memory);
    for (const GemvPass& gemv : passes) {
      for (std::int64_t s = 0; s < item.strips; ++s) {
        format.float_gemv_along_n[gemv.size](
            weights_.codes_along_n(rows, item.first_strip + s),
            {.x = gemv.x + (k0 << gemv.size), .k = k, .c = work.row(gemv.first) + s * lanes, .c_stride = work.c_stride});
      }
    }
  }
}

/// Interleaves the item's rows of x as the float GEMV kernels take them, and decides the passes. There are as few passes as
/// possible. The last pass may compute up to padding_rows more rows than there are.
std::vector<GemvPass> ExpertProduct::interleaved(const ItemWork& work) const {
  std::vector<GemvPass> passes;
  std::int64_t floats = 0;
  for (std::int64_t first = 0, left = work.item.rows; left > 0;) {
    std::int64_t rows = std::bit_floor(static_cast<std::uint64_t>(std::min<std::int64_t>(left, plan_.limits.float_gemv_rows)));
    const std::int64_t rest = left - rows;
    // Unpacking the weights costs as much as three rows.
    if (rest > 0 && rest < rows && rows < plan_.limits.float_gemv_rows && rest + 3 > rows) {
      rows *= 2;
    }
    passes.push_back({.first = first,
                      .size = std::countr_zero(static_cast<std::uint64_t>(rows)),
                      .x = rows_.floats(work.rows[static_cast<std::size_t>(first)])});
    floats += rows > 1 ? rows * weights_.K() : 0;
    first += rows;
    left -= rows;
  }
  auto* memory = work.scratch.floats.take<float>(floats);
  for (GemvPass& gemv : passes) {
    const std::int64_t rows = std::int64_t{1} << gemv.size;
    if (rows == 1) {
      continue;  // a single row needs no copy
    }
    constexpr std::int64_t some = 64;  // this many lines of 16 rows stay in L1 while they are filled
    for (std::int64_t k0 = 0; k0 < weights_.K(); k0 += some) {
      for (std::int64_t r = 0; r < rows; ++r) {
        const float* row = rows_.floats(work.rows[static_cast<std::size_t>(std::min(gemv.first + r, work.item.rows - 1))]);
        for (std::int64_t k = k0; k < std::min(k0 + some, weights_.K()); ++k) {
          memory[k * rows + r] = row[k];
        }
      }
    }
    gemv.x = memory;
    memory += rows * weights_.K();
  }
  return passes;
}

}  // namespace gqmm::cpu
