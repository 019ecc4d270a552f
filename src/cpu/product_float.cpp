// The float path: as the integer path, decode, and tiles over a panel.
#include "cpu/machine.hpp"
#include "cpu/product.hpp"
#include "cpu/strips_ahead.hpp"
#include "formats/registry.hpp"

#include <algorithm>
#include <array>
#include <bit>

namespace gqmm::cpu {

void Product::float_product(const Block& block, const Item* next) const {
  std::fill_n(block.c, (block.item.rows + padding_rows) * block.c_stride, 0.0F);
  const bool few = problem_.format != nullptr && block.item.rows <= kernels_.few_float_rows.of(problem_.transpose);
  if (problem_.format == nullptr || problem_.transpose) {
    few ? float_gemv(block, next) : float_gemm(block, next);
  } else {
    few ? float_gemv_along_n(block) : float_gemm_along_n(block);
  }
}

// Panel by panel, in blocks of k.
void Product::float_gemm(const Block& block, const Item* next) const {
  const Item& item = block.item;
  const std::int64_t width = kernels_.float_tile.nv;
  float* panel = block.scratch.floats.take<float>(width, float_block * lanes);
  for (std::int64_t s = 0; s < item.strips; s += width) {
    const std::int64_t strips = std::min(width, item.strips - s);
    const Ahead to_come = problem_.format != nullptr ? ahead(weights_, item, s + width, next, width) : Ahead{};
    LineQueue lines_ahead(to_come, float_tiles(item.rows) * problem_.K / prefetch_k);
    for (std::int64_t k0 = 0; k0 < problem_.K; k0 += float_block) {
      const std::int64_t k = std::min(float_block, problem_.K - k0);
      weights_.dequantize(item.expert, item.first_strip + s, strips, k0, k, panel);
      multiply_block(block, s, strips, k0, k, panel, lines_ahead);
    }
  }
}

// The weights' rows are k, so a block of k is a run of memory of which each panel takes a part.
void Product::float_gemm_along_n(const Block& block) const {
  const Item& item = block.item;
  const std::int64_t width = kernels_.float_tile.nv;
  const std::int64_t panels = (item.strips + width - 1) / width;
  float* panel = block.scratch.floats.take<float>(width, float_block * lanes);
  auto* memory = block.scratch.scales.take<float>(weights_.row_scales_size(item.strips, float_block));
  for (std::int64_t k0 = 0; k0 < problem_.K; k0 += float_block) {
    const std::int64_t k = std::min(float_block, problem_.K - k0);
    const RowScales scales = weights_.row_scales(item.expert, item.first_strip, item.strips, k0, k, memory);
    LineQueue lines_ahead(weights_.rows_ahead(item.expert, k0 + k, float_block),
                          panels * float_tiles(item.rows) * k / prefetch_k);
    for (std::int64_t s = 0; s < item.strips; s += width) {
      const std::int64_t strips = std::min(width, item.strips - s);
      weights_.dequantize(scales, item.first_strip + s, strips, k, panel);
      multiply_block(block, s, strips, k0, k, panel, lines_ahead);
    }
  }
}

/// Tiles that so many rows take.
std::int64_t Product::float_tiles(std::int64_t rows) const {
  return (rows + kernels_.float_tile.mr - 1) / kernels_.float_tile.mr;
}

/// The block's rows times a panel of strips [s, s + strips) and k in [k0, k0 + k).
void Product::multiply_block(const Block& block, std::int64_t s, std::int64_t strips, std::int64_t k0, std::int64_t k,
                             const float* panel, LineQueue& lines_ahead) const {
  const auto rows = static_cast<std::size_t>(block.item.rows);
  std::vector<const float*>& x = block.scratch.x;
  std::vector<float*>& c = block.scratch.c_rows;
  x.resize(rows);
  c.resize(rows);
  for (std::size_t r = 0; r < rows; ++r) {
    x[r] = x_.floats(block.x_rows[r]) + k0;
    c[r] = block.row(static_cast<std::int64_t>(r));
  }
  multiply_floats(s, strips, panel, k, x.data(), c.data(), block.item.rows, lines_ahead);
}

// Strip by strip, rows a chunk at a time.
void Product::float_gemv(const Block& block, const Item* next) const {
  const auto& kernels = kernels_.formats[index_of(*problem_.format)].float_gemv;
  const std::vector<RowChunk> chunks = interleaved(block);
  const auto multiply = [&](std::int64_t s, std::int64_t part, const StripStream& stream) {
    const RowChunk& chunk = chunks[static_cast<std::size_t>(part)];
    kernels[chunk.size](stream,
                        {.x = chunk.x, .k = problem_.K, .c = block.row(chunk.first) + s * lanes, .c_stride = block.c_stride});
  };
  for_each_strip(weights_, block.item, next, static_cast<std::int64_t>(chunks.size()), machine().decode_prefetches_to_l2,
                 multiply);
}

// The weights' rows are k, so a block of k is a run of memory that all strips and rows of x take their part of.
void Product::float_gemv_along_n(const Block& block) const {
  const Item& item = block.item;
  const FormatKernels& format = kernels_.formats[index_of(*problem_.format)];
  const std::vector<RowChunk> chunks = interleaved(block);
  auto* memory = block.scratch.scales.take<float>(weights_.row_scales_size(item.strips, float_block));
  for (std::int64_t k0 = 0; k0 < problem_.K; k0 += float_block) {
    const std::int64_t k = std::min(float_block, problem_.K - k0);
    const RowScales scales = weights_.row_scales(item.expert, item.first_strip, item.strips, k0, k, memory);
    for (const RowChunk& chunk : chunks) {
      for (std::int64_t s = 0; s < item.strips; ++s) {
        format.float_gemv_along_n[chunk.size](
            weights_.code_rows(scales, item.first_strip + s),
            {.x = chunk.x + (k0 << chunk.size), .k = k, .c = block.row(chunk.first) + s * lanes, .c_stride = block.c_stride});
      }
    }
  }
}

/// The block's rows of x as the float GEMV kernels take them: as few kernels as may be, the last one for up to padding_rows more
/// rows than there are.
std::vector<RowChunk> Product::interleaved(const Block& block) const {
  std::vector<RowChunk> chunks;
  std::int64_t floats = 0;
  for (std::int64_t first = 0, left = block.item.rows; left > 0;) {
    std::int64_t rows = std::bit_floor(static_cast<std::uint64_t>(std::min<std::int64_t>(left, kernels_.float_gemv_rows)));
    const std::int64_t rest = left - rows;
    // Unpacking weights costs as much as three rows.
    if (rest > 0 && rest < rows && rows < kernels_.float_gemv_rows && rest + 3 > rows) {
      rows *= 2;
    }
    chunks.push_back({.first = first,
                      .size = std::countr_zero(static_cast<std::uint64_t>(rows)),
                      .x = x_.floats(block.x_rows[static_cast<std::size_t>(first)])});
    floats += rows > 1 ? rows * problem_.K : 0;
    first += rows;
    left -= rows;
  }
  auto* memory = block.scratch.floats.take<float>(floats);
  for (RowChunk& chunk : chunks) {
    const std::int64_t rows = std::int64_t{1} << chunk.size;
    if (rows == 1) {
      continue;  // as it is
    }
    constexpr std::int64_t some = 64;  // as many lines of 16 rows stay in L1 while they are filled
    for (std::int64_t k0 = 0; k0 < problem_.K; k0 += some) {
      for (std::int64_t r = 0; r < rows; ++r) {
        const float* row = x_.floats(block.x_rows[static_cast<std::size_t>(std::min(chunk.first + r, block.item.rows - 1))]);
        for (std::int64_t k = k0; k < std::min(k0 + some, problem_.K); ++k) {
          memory[k * rows + r] = row[k];
        }
      }
    }
    chunk.x = memory;
    memory += rows * problem_.K;
  }
  return chunks;
}

}  // namespace gqmm::cpu
