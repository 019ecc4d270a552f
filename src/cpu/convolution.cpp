#include "cpu/convolution.hpp"

#include "cpu/call_context.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/load_floats.hpp"
#include "cpu/scratch.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace gqmm::cpu {
namespace {

/// Channels of an item. Processors fetch ahead in long rows; 7 rows of 2048 float32 and their weights stay in L2. Where rows are
/// few, items have fewer channels, but a kilobyte of a row.
constexpr std::int64_t most_channels = 2048;
constexpr std::int64_t least_channels = 256;
/// Rows of an item, at least, where there are so many: an item loads the weights of its channels once.
constexpr std::int64_t item_rows = 64;
/// Items of a thread, at least, where there is enough to do.
constexpr std::int64_t items_of_a_thread = 4;
/// An element that is read from memory and written again takes about as long as this number of multiply-adds.
constexpr double multiply_adds_of_an_element = 16;
/// Elements of a row of weights that a kernel transposes at once.
constexpr std::int64_t transposed_taps = 4;

/// A row of zeros of any type, which stands in for padding.
constexpr std::array<std::byte, most_channels * sizeof(float)> zeros = {};

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

struct ConvolutionScratch {
  Scratch weight;      // [channel][tap]
  Scratch transposed;  // [strip of 16 channels][tap][16]
  Scratch x;
  Scratch y;
};

/// Some channels of some rows of y, which count through all sequences.
struct ConvolutionBlock {
  std::int64_t first_channel;
  std::int64_t channels;
  std::int64_t first_row;
  std::int64_t end_row;
};

class Convolution {
 public:
  Convolution(const ConvolutionProblem& problem, const KernelTable& kernels, int threads)
      : p_(problem),
        kernels_(kernels),
        layers_(active_layers()),
        rows_(problem.x.count() * problem.rows),
        x_stride_(problem.stride == problem.dilation ? 1 : problem.taps()),
        padded_taps_(divide_up(problem.taps(), transposed_taps) * transposed_taps) {
    const std::int64_t C = problem.channels();
    const std::int64_t wanted = threads == 1 ? 1 : threads * items_of_a_thread;
    const std::int64_t row_blocks = std::clamp<std::int64_t>(rows_ / item_rows, 1, wanted);
    const std::int64_t channel_blocks =
        std::clamp(divide_up(wanted, row_blocks), divide_up(C, most_channels), divide_up(C, least_channels));
    rows_of_item_ = divide_up(rows_, row_blocks);
    channels_of_item_ = divide_up(divide_up(C, channel_blocks), lanes) * lanes;
    channel_blocks_ = divide_up(C, channels_of_item_);
  }

  [[nodiscard]] std::int64_t items() const { return channel_blocks_ * divide_up(rows_, rows_of_item_); }

  void run_item(std::int64_t item) const {
    const ConvolutionBlock block = block_of(item);
    const ThreadCached<ConvolutionScratch> scratch;
    const float* const weight = load_weight(block, *scratch);
    auto* const x = scratch->x.take<const std::byte*>(most_convolved_rows, p_.taps());
    // Sums of half types are rounded from rows of float32, which stay in L2.
    const bool rounds = p_.y_dtype != Dtype::float32;
    auto* const sums = rounds ? scratch->y.take<float>(most_convolved_rows, block.channels) : nullptr;
    for (std::int64_t row = block.first_row; row < block.end_row;) {
      const std::int64_t left_of_sequence = p_.rows - row % p_.rows;
      const auto count = std::min<std::int64_t>({most_convolved_rows, block.end_row - row, left_of_sequence});
      find_rows(block, row, count, x);
      layers_.depthwise_conv({.x = x,
                              .dtype = p_.x.dtype(),
                              .x_stride = x_stride_,
                              .weight = weight,
                              .weight_stride = padded_taps_ * lanes,
                              .taps = p_.taps(),
                              .channels = block.channels,
                              .rows = static_cast<int>(count),
                              .y = rounds ? reinterpret_cast<std::byte*>(sums) : y_of(block, row),
                              .y_stride = (rounds ? block.channels : p_.channels()) * static_cast<std::int64_t>(sizeof(float))});
      for (std::int64_t r = 0; rounds && r < count; ++r) {
        kernels_.round(sums + r * block.channels, block.channels, p_.y_dtype, y_of(block, row + r));
      }
      row += count;
    }
  }

 private:
  [[nodiscard]] std::byte* y_of(const ConvolutionBlock& block, std::int64_t row) const {
    return p_.y + (row * p_.channels() + block.first_channel) * static_cast<std::int64_t>(size_of(p_.y_dtype));
  }

  [[nodiscard]] ConvolutionBlock block_of(std::int64_t item) const {
    const std::int64_t first_channel = item % channel_blocks_ * channels_of_item_;
    const std::int64_t first_row = item / channel_blocks_ * rows_of_item_;
    return {.first_channel = first_channel,
            .channels = std::min(channels_of_item_, p_.channels() - first_channel),
            .first_row = first_row,
            .end_row = std::min(rows_, first_row + rows_of_item_)};
  }

  /// The weights of a block's channels, a vector of 16 channels for each tap.
  const float* load_weight(const ConvolutionBlock& block, ConvolutionScratch& scratch) const {
    const std::int64_t strips = divide_up(block.channels, lanes);
    auto* const rows = scratch.weight.take<float>(strips * lanes, padded_taps_);
    load_floats(kernels_, p_.weight, block.first_channel * p_.taps(), block.channels * p_.taps(), rows);
    // Rows of whole pieces for the kernel that transposes, and rows of zeros up to a whole strip.
    for (std::int64_t c = block.channels - 1; c >= 0 && padded_taps_ != p_.taps(); --c) {
      std::memmove(rows + c * padded_taps_, rows + c * p_.taps(), static_cast<std::size_t>(p_.taps()) * sizeof(float));
      std::fill(rows + c * padded_taps_ + p_.taps(), rows + (c + 1) * padded_taps_, 0.0F);
    }
    std::fill(rows + block.channels * padded_taps_, rows + strips * lanes * padded_taps_, 0.0F);
    auto* const transposed = scratch.transposed.take<float>(strips * lanes, padded_taps_);
    for (std::int64_t strip = 0; strip < strips; ++strip) {
      const std::int64_t at = strip * lanes * padded_taps_;
      layers_.attention.pack_keys[static_cast<int>(FloatKind::float32)](
          {.rows = reinterpret_cast<const std::byte*>(rows + at),
           .stride = padded_taps_ * static_cast<std::int64_t>(sizeof(float)),
           .count = lanes,
           .width = padded_taps_,
           .panel = transposed + at,
           .prefetch = {}});
    }
    return transposed;
  }

  /// Writes where the rows of x are that `count` rows of y read, from row `row` on.
  void find_rows(const ConvolutionBlock& block, std::int64_t row, std::int64_t count, const std::byte** x) const {
    const std::int64_t sequence = row / p_.rows;
    const std::byte* const first = p_.x.matrix(sequence) + block.first_channel * p_.x.col_stride();
    for (std::int64_t r = 0; r < count; ++r) {
      for (std::int64_t k = 0; k < p_.taps(); ++k) {
        const std::int64_t at = p_.x_row(row % p_.rows + r, k);
        x[r * x_stride_ + k] = p_.has_row(at) ? first + at * p_.x.row_stride() : zeros.data();
      }
    }
  }

  const ConvolutionProblem& p_;
  const KernelTable& kernels_;
  const LayerKernels& layers_;
  std::int64_t rows_;         // of y, of all sequences
  std::int64_t x_stride_;     // rows of x from one row of y to the next, in the kernel's list
  std::int64_t padded_taps_;  // whole pieces of taps that are transposed at once
  std::int64_t rows_of_item_;
  std::int64_t channels_of_item_;  // whole strips
  std::int64_t channel_blocks_;
};

}  // namespace

void depthwise_conv1d(const ConvolutionProblem& problem) {
  const double elements =
      static_cast<double>(problem.x.count()) * static_cast<double>(problem.rows) * static_cast<double>(problem.channels());
  CallContext call(elements * (multiply_adds_of_an_element + static_cast<double>(problem.taps())), problem.threads);
  const Convolution convolution(problem, call.kernels(), call.threads());
  call.use_at_most(convolution.items());
  call.add_phase(
      convolution.items(), [](std::int64_t) { return 1; }, [&](std::int64_t item, std::int64_t) { convolution.run_item(item); });
  call.run();
}

}  // namespace gqmm::cpu
