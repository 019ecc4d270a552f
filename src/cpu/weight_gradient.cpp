// The gradients of the weights. A block of G[k, n] = Σ x[t, k] · dy[t, n] over all rows t of an expert is computed by the tiles
// of the float path, whose "k" is t here:
//
//     x[t, k0 …] → columns [k][t]      dy[t, n0 …] → panel [strip][t][16]      G [k][strip · 16 + lane] += columns · panel
//
// A block holds whole groups, so what follows needs no other block: it is rounded as it is for dense weights, and for affine
// weights it is multiplied by the codes and summed within groups.
#include "cpu/backend.hpp"
#include "cpu/call_context.hpp"
#include "cpu/gradients.hpp"
#include "cpu/prepared_rows.hpp"
#include "cpu/scratch.hpp"
#include "cpu/weight_view.hpp"
#include "plan/routing.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

namespace gqmm::cpu {
namespace {

/// Extent of a block of G along k and along n: the largest group, 64 KiB of sums.
constexpr std::int64_t block_extent = 128;
constexpr std::int64_t block_strips = block_extent / lanes;
static_assert(block_extent % float_block == 0 && block_extent % strip_width == 0, "a block holds whole groups and whole strips");
/// Floats between the columns of a block. They would fall into the same few sets of L1 if this were a power of two.
constexpr std::int64_t column_stride = float_block + lanes;

struct GradientBlock {
  Segment segment;  // of the routing
  std::int64_t k0;
  std::int64_t k;
  std::int64_t first_strip;
  std::int64_t strips;
};

/// Memory of a block.
struct BlockScratch {
  Scratch sums;     // [k][block_extent]
  Scratch columns;  // [k][column_stride]
  Scratch panel;    // [strip][t][16], t < float_block
  Scratch codes;    // [strip][k][16]
  Scratch rows;     // of a WeightView
  Scratch values;   // gradients of scales or biases before they are rounded
};

/// Matrices whose dequantized weights are the codes of others: every scale is 1, every bias 0.
class CodesOf {
 public:
  explicit CodesOf(const QuantizedMatrices& matrices, std::int64_t N, std::int64_t K) : codes_(matrices) {
    const std::int64_t rows = matrices.transpose() ? N : K;
    const std::int64_t groups = (matrices.transpose() ? K : N) / matrices.group_size();
    constexpr std::int64_t itemsize = sizeof(float);
    ones_.assign(static_cast<std::size_t>(groups * lanes), 1.0F);
    zeros_.assign(ones_.size(), 0.0F);
    const auto constant = [&](const std::vector<float>& values) {
      return matrices.in_strips()
                 ? MatrixBatch(array::borrow(values.data(), {matrices.experts * strips_of(rows), groups, lanes}, Dtype::float32,
                                             {0, lanes * itemsize, itemsize}))
                 : MatrixBatch(array::borrow(values.data(), {matrices.experts, rows, groups}, Dtype::float32, {0, 0, itemsize}));
    };
    auto& as_quantized = std::get<QuantizedMatrices>(codes_);
    as_quantized.scales = constant(ones_);
    as_quantized.biases = constant(zeros_);
  }
  CodesOf(const CodesOf&) = delete;
  CodesOf& operator=(const CodesOf&) = delete;

  [[nodiscard]] const WeightMatrices& matrices() const { return codes_; }

 private:
  WeightMatrices codes_;
  std::vector<float> ones_;
  std::vector<float> zeros_;
};

/// Computes blocks of G.
class BlockOfGradient {
 public:
  BlockOfGradient(const KernelTable& kernels, const Routing& routing, const PreparedRows& x, const PreparedRows& dy,
                  std::int64_t N)
      : kernels_(kernels), routing_(routing), x_(x), dy_(dy), N_(N) {}

  /// → [k][block_extent] floats in scratch.sums. Lanes of outputs that do not exist are zero.
  const float* compute(const GradientBlock& block, BlockScratch& scratch) const {
    auto* sums = scratch.sums.take<float>(block.k, block_extent);
    auto* columns = scratch.columns.take<float>(block.k, column_stride);
    auto* panel = scratch.panel.take<float>(block.strips, float_block * lanes);
    std::fill_n(sums, block.k * block_extent, 0.0F);
    const std::int64_t first = block.segment.first * x_.M();
    const std::int64_t last = block.segment.last * x_.M();
    for (std::int64_t t0 = first; t0 < last; t0 += float_block) {
      const std::int64_t rows = std::min(float_block, last - t0);
      for (std::int64_t t = 0; t < rows; ++t) {
        gather_row(block, t0 + t, columns + t, panel + t * lanes, rows * lanes);
      }
      multiply(block, rows, columns, panel, sums);
    }
    return sums;
  }

 private:
  /// Row `row` of the expert's rows: x as an element of each column, dy as a line of each strip.
  void gather_row(const GradientBlock& block, std::int64_t row, float* columns, float* panel, std::int64_t strip_stride) const {
    const std::int64_t pair = routing_.order[static_cast<std::size_t>(row / x_.M())];
    const std::int64_t m = row % x_.M();
    const float* x = x_.floats(x_.row_of(pair, m)) + block.k0;
    for (std::int64_t k = 0; k < block.k; ++k) {
      columns[k * column_stride] = x[k];
    }
    const float* dy = dy_.floats(dy_.row_of(pair, m));
    for (std::int64_t s = 0; s < block.strips; ++s) {
      const std::int64_t n0 = (block.first_strip + s) * lanes;
      const std::int64_t outputs = std::min<std::int64_t>(lanes, N_ - n0);
      float* line = panel + s * strip_stride;
      std::copy_n(dy + n0, outputs, line);
      std::fill_n(line + outputs, lanes - outputs, 0.0F);
    }
  }

  void multiply(const GradientBlock& block, std::int64_t rows, const float* columns, const float* panel, float* sums) const {
    const TileSize tile = kernels_.float_tile;
    for (std::int64_t s = 0; s < block.strips; s += tile.nv) {
      const std::int64_t strips = std::min<std::int64_t>(tile.nv, block.strips - s);
      for (std::int64_t k = 0; k < block.k; k += tile.mr) {
        const auto count = static_cast<std::size_t>(std::min<std::int64_t>(tile.mr, block.k - k));
        std::array<const float*, max_tile_rows> x = {};
        std::array<float*, max_tile_rows> c = {};
        for (std::size_t r = 0; r < count; ++r) {
          x[r] = columns + (k + static_cast<std::int64_t>(r)) * column_stride;
          c[r] = sums + (k + static_cast<std::int64_t>(r)) * block_extent + s * lanes;
        }
        kernels_.float_gemm[count - 1][strips - 1]({.tile = {.w = panel + s * rows * lanes,
                                                             .strip_stride = rows * lanes,
                                                             .x = x.data(),
                                                             .k = static_cast<int>(rows),
                                                             .prefetch = reinterpret_cast<const std::byte*>(panel)},
                                                    .c = c.data()});
      }
    }
  }

  const KernelTable& kernels_;
  const Routing& routing_;
  const PreparedRows& x_;
  const PreparedRows& dy_;
  std::int64_t N_;
};

/// Rounds blocks of G into the gradients that the problem wants.
class WeightGradients {
 public:
  WeightGradients(const KernelTable& kernels, const GradientProblem& gradient)
      : kernels_(kernels), gradient_(gradient), N_(gradient.product.N), K_(gradient.product.K) {
    if (const QuantizedMatrices* matrices = quantized(gradient.product.weights)) {
      along_k_ = matrices->transpose();
      group_size_ = matrices->group_size();
      codes_.emplace(*matrices, N_, K_);
      view_.emplace(codes_->matrices(), N_, K_, kernels);
    }
  }

  void write(const GradientBlock& block, const float* sums, BlockScratch& scratch) const {
    if (gradient_.weights.wanted()) {
      write_dense(block, sums);
    }
    if (gradient_.scales.wanted()) {
      write_groups(block, sums, codes_of(block, scratch), gradient_.scales, scratch);
    }
    if (gradient_.biases.wanted()) {
      write_groups(block, sums, nullptr, gradient_.biases, scratch);
    }
  }

  /// Zeros for an expert without rows.
  void clear(std::int64_t expert) const {
    const std::int64_t groups = N_ * K_ / group_size_;
    for (const auto& [memory, elements] :
         {std::pair(&gradient_.weights, N_ * K_), std::pair(&gradient_.scales, groups), std::pair(&gradient_.biases, groups)}) {
      if (memory->wanted()) {
        const std::int64_t bytes = elements * static_cast<std::int64_t>(size_of(memory->dtype));
        std::memset(memory->data + expert * bytes, 0, static_cast<std::size_t>(bytes));
      }
    }
  }

 private:
  [[nodiscard]] std::int64_t outputs_of(const GradientBlock& block) const {
    return std::min(block.strips * lanes, N_ - block.first_strip * lanes);
  }

  void round_row(const float* values, std::int64_t count, const GradientMemory& to, std::int64_t position) const {
    kernels_.round(values, count, to.dtype, to.data + position * static_cast<std::int64_t>(size_of(to.dtype)));
  }

  void write_dense(const GradientBlock& block, const float* sums) const {
    for (std::int64_t k = 0; k < block.k; ++k) {
      const std::int64_t row = block.segment.expert * K_ + block.k0 + k;
      round_row(sums + k * block_extent, outputs_of(block), gradient_.weights, row * N_ + block.first_strip * lanes);
    }
  }

  /// The codes of a block as floats, [strip][k][16].
  const float* codes_of(const GradientBlock& block, BlockScratch& scratch) const {
    auto* codes = scratch.codes.take<float>(block.strips, block.k * lanes);
    if (along_k_) {
      view_->dequantize(block.segment.expert, block.first_strip, block.strips, block.k0, block.k, codes);
    } else {
      auto* memory = scratch.rows.take<float>(view_->block_along_n_size(block.strips, block.k));
      const BlockAlongN rows =
          view_->block_along_n(block.segment.expert, block.first_strip, block.strips, block.k0, block.k, memory);
      view_->dequantize(rows, block.first_strip, block.strips, block.k, codes);
    }
    return codes;
  }

  /// Sums of G · code within groups. Without codes: of G.
  void write_groups(const GradientBlock& block, const float* sums, const float* codes, const GradientMemory& to,
                    BlockScratch& scratch) const {
    if (along_k_) {
      write_groups_along_k(block, sums, codes, to, scratch);
    } else {
      write_groups_along_n(block, sums, codes, to, scratch);
    }
  }

  // Each output's sum runs over ascending k.
  void write_groups_along_k(const GradientBlock& block, const float* sums, const float* codes, const GradientMemory& to,
                            BlockScratch& scratch) const {
    const std::int64_t groups = block.k / group_size_;
    auto* values = scratch.values.take<float>(lanes, groups);
    for (std::int64_t s = 0; s < block.strips; ++s) {
      for (std::int64_t g = 0; g < groups; ++g) {
        std::array<float, lanes> group = {};
        for (std::int64_t k = g * group_size_; k < (g + 1) * group_size_; ++k) {
          add_line(sums + k * block_extent + s * lanes, codes == nullptr ? nullptr : codes + (s * block.k + k) * lanes, group);
        }
        for (std::int64_t lane = 0; lane < lanes; ++lane) {
          values[lane * groups + g] = group[static_cast<std::size_t>(lane)];
        }
      }
      const std::int64_t n0 = (block.first_strip + s) * lanes;
      for (std::int64_t lane = 0; lane < std::min<std::int64_t>(lanes, N_ - n0); ++lane) {
        const std::int64_t row = block.segment.expert * N_ + n0 + lane;
        round_row(values + lane * groups, groups, to, (row * K_ + block.k0) / group_size_);
      }
    }
  }

  // Outputs 16 apart are summed in ascending order, then the 16 sums.
  void write_groups_along_n(const GradientBlock& block, const float* sums, const float* codes, const GradientMemory& to,
                            BlockScratch& scratch) const {
    const std::int64_t strips_of_group = group_size_ / lanes;
    const std::int64_t groups = block.strips / strips_of_group;
    auto* values = scratch.values.take<float>(groups);
    for (std::int64_t k = 0; k < block.k; ++k) {
      for (std::int64_t g = 0; g < groups; ++g) {
        std::array<float, lanes> group = {};
        for (std::int64_t s = g * strips_of_group; s < (g + 1) * strips_of_group; ++s) {
          add_line(sums + k * block_extent + s * lanes, codes == nullptr ? nullptr : codes + (s * block.k + k) * lanes, group);
        }
        values[g] = std::accumulate(group.begin() + 1, group.end(), group.front());
      }
      const std::int64_t row = block.segment.expert * K_ + block.k0 + k;
      round_row(values, groups, to, (row * N_ + block.first_strip * lanes) / group_size_);
    }
  }

  /// Each product is rounded before it is added: an instruction set without fma would be slow, and all have the same bits.
  static void add_line(const float* sums, const float* codes, std::array<float, lanes>& group) {
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      group[lane] += codes == nullptr ? sums[lane] : sums[lane] * codes[lane];
    }
  }

  const KernelTable& kernels_;
  const GradientProblem& gradient_;
  std::int64_t N_;
  std::int64_t K_;
  bool along_k_ = true;
  std::int64_t group_size_ = 1;
  std::optional<CodesOf> codes_;
  std::optional<WeightView> view_;
};

std::vector<GradientBlock> blocks_of(const Problem& problem, const Routing& routing) {
  std::vector<GradientBlock> blocks;
  const std::int64_t strips = strips_of(problem.N);
  for (const Segment& segment : routing.segments) {
    for (std::int64_t k0 = 0; k0 < problem.K; k0 += block_extent) {
      for (std::int64_t s = 0; s < strips; s += block_strips) {
        blocks.push_back({.segment = segment,
                          .k0 = k0,
                          .k = std::min(block_extent, problem.K - k0),
                          .first_strip = s,
                          .strips = std::min(block_strips, strips - s)});
      }
    }
  }
  return blocks;
}

std::vector<std::int64_t> experts_without_rows(const Routing& routing, std::int64_t experts) {
  std::vector<std::int64_t> idle;
  auto segment = routing.segments.begin();
  for (std::int64_t expert = 0; expert < experts; ++expert) {
    if (segment != routing.segments.end() && segment->expert == expert) {
      ++segment;
    } else {
      idle.push_back(expert);
    }
  }
  return idle;
}

}  // namespace

void run_weight_gradients(const GradientProblem& gradient) {
  const Problem& problem = gradient.product;
  std::vector<std::int64_t> pairs(problem.rhs.size());
  std::iota(pairs.begin(), pairs.end(), std::int64_t{0});
  CallContext call(multiply_adds(problem), problem.threads);
  const Routing routing = problem.M == 0 ? Routing() : routing_of(problem);
  const std::vector<GradientBlock> blocks = blocks_of(problem, routing);
  const std::vector<std::int64_t> idle = experts_without_rows(routing, experts_of(problem.weights));
  PreparedRows x(call, {.matrices = problem.x, .matrix_of_pair = problem.lhs, .M = problem.M, .K = problem.K}, {});
  PreparedRows dy(call, {.matrices = gradient.dy, .matrix_of_pair = pairs, .M = problem.M, .K = problem.N}, {});
  const BlockOfGradient block_of_gradient(call.kernels(), routing, x, dy, problem.N);
  const WeightGradients gradients(call.kernels(), gradient);

  const auto count_of = [](const auto& list) { return static_cast<std::int64_t>(list.size()); };
  const auto equal_cost = [](std::int64_t) { return 1; };
  call.use_at_most(std::max({count_of(blocks), x.count(), dy.count(), count_of(idle)}));
  call.add_phase(x.count(), equal_cost, [&](std::int64_t row, std::int64_t) { x.prepare(row); });
  call.add_phase(dy.count(), equal_cost, [&](std::int64_t row, std::int64_t) { dy.prepare(row); });
  call.add_phase(
      count_of(blocks),
      [&](std::int64_t i) {
        const GradientBlock& block = blocks[static_cast<std::size_t>(i)];
        return (block.segment.last - block.segment.first) * block.k * block.strips;
      },
      [&](std::int64_t i, std::int64_t) {
        const GradientBlock& block = blocks[static_cast<std::size_t>(i)];
        const ThreadCached<BlockScratch> scratch;
        gradients.write(block, block_of_gradient.compute(block, *scratch), *scratch);
      });
  call.add_phase(count_of(idle), equal_cost,
                 [&](std::int64_t i, std::int64_t) { gradients.clear(idle[static_cast<std::size_t>(i)]); });
  call.run();
}

void run(const GradientProblem& gradient) {
  const Problem& problem = gradient.product;
  const std::int64_t x_elements = gradient.x_matrices * problem.M * problem.K;
  if (gradient.x.wanted() && problem.N == 0) {
    std::memset(gradient.x.data, 0, static_cast<std::size_t>(x_elements) * size_of(gradient.x.dtype));
  } else if (gradient.x.wanted() && x_elements != 0) {
    run_input_gradient(gradient);
  }
  const bool of_weights = gradient.weights.wanted() || gradient.scales.wanted() || gradient.biases.wanted();
  if (of_weights && experts_of(problem.weights) != 0 && problem.N != 0 && problem.K != 0) {
    run_weight_gradients(gradient);
  }
}

}  // namespace gqmm::cpu
