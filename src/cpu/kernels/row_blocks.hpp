// Blocks of words of 16 rows, transposed, one after the other.
//
// Rows are read where they lie, 16 bytes at a time, four times from each line, for which all 16 lines must stay in L1. Rows a
// multiple of 4096 bytes apart cannot: their lines share a set of it. Chunks of those are copied, each while the one before it is
// used. Strips of fewer than 16 rows, and words at the end that do not fill a block, are copied before they are used.
#pragma once

#include "cpu/kernels/copy_rows.hpp"
#include "cpu/kernels/unrolled.hpp"

#include <algorithm>
#include <utility>

namespace gqmm::cpu {
namespace {

/// Blocks side by side in rows `stride` bytes apart: where those of the first row begin and end.
struct BlockRun {
  const std::byte* from;
  std::int64_t stride;
  const std::byte* until;
};

/// What of a strip is copied, and how far that is: all that a walk through its blocks needs seldom, and so not in registers.
template <class V, int size>
class RowCopies {
 public:
  RowCopies() = default;
  RowCopies(const RowCopies&) = delete;  // it points into itself
  RowCopies& operator=(const RowCopies&) = delete;

  /// Words [first, end) of the rows: the blocks to be read first.
  BlockRun begin(const WeightStrip& strip, std::int64_t first, std::int64_t end) {
    row_ = strip.codes + first * 4;
    row_stride_ = strip.row_stride;
    rows_ = strip.rows;
    words_left_ = end - first;
    chunks_left_ = 0;
    const std::byte* in_place = row_;
    if (rows_ == lanes && !strip.packed) {
      if (row_stride_ % one_set != 0) {
        row_ += words_left_ / size * size * 4;
        words_left_ %= size;
      } else if constexpr (has_chunks) {
        chunks_left_ = words_left_ / chunk_words;
        words_left_ %= chunk_words;
      }
    }
    if (chunks_left_ > 0) {
      chunk_ = bytes_;
      next_chunk_ = bytes_ + lanes * chunk_words * 4;
      for (int block = 0; block < chunk_words / size; ++block) {
        copy_of_chunk(block, chunk_);
      }
      row_ += chunk_words * 4;
      return {chunk_, chunk_words * 4, chunk_};
    }
    return {in_place, row_stride_, row_};
  }

  /// The blocks to be read next, where those up to `at` have been.
  [[gnu::always_inline]] BlockRun after(const std::byte* at) {
    if (chunks_left_ > 0) {
      return next_of_chunk(at);
    }
    const std::int64_t words = std::min<std::int64_t>(copied, words_left_);
    copy_rows<copied * 4, size * 4>(row_, row_stride_, rows_, words * 4, bytes_);
    row_ += words * 4;
    words_left_ -= words;
    return {bytes_, copied * 4, bytes_ + copied * 4};
  }

 private:
  /// Rows a multiple of this apart lie in the same set of L1: 64 sets of a line on most processors, 8 or 12 ways.
  static constexpr std::int64_t one_set = 4096;
  static constexpr int copied = 64 / size * size;  // words: with fewer, calls would cost as much as copying
  /// Two lines of each row, where rows begin with one: processors fetch neighbours in pairs.
  static constexpr int chunk_words = 2 * lanes;
  static constexpr bool has_chunks = chunk_words % size == 0;

  /// Copies `size` / 2 rows of the chunk at row_: with the last of its 32 / size blocks, all 16.
  [[gnu::always_inline]] void copy_of_chunk(std::int64_t block, std::byte* to) {
    static_assert(!has_chunks || size % 2 == 0);
    const std::byte* from = row_ + block * (size / 2) * row_stride_;
    to += block * (size / 2) * chunk_words * 4;
    for (int row = 0; row < size / 2; ++row) {
      for (int half = 0; half < chunk_words * 4; half += lanes * 4) {
        V::store_words(to + row * chunk_words * 4 + half, V::load_words(from + row * row_stride_ + half, lanes), lanes);
      }
    }
  }

  /// The next block of a chunk, for which it copies a part of the chunk after it.
  [[gnu::always_inline]] BlockRun next_of_chunk(const std::byte* at) {
    if (at == next_chunk_ + chunk_words * 4) {
      at = chunk_;
    }
    const BlockRun block = {at, chunk_words * 4, at + size * 4};
    if (chunks_left_ > 1) {
      copy_of_chunk((at - chunk_) / (size * 4), next_chunk_);
    }
    if (block.until == chunk_ + chunk_words * 4) {
      std::swap(chunk_, next_chunk_);
      if (--chunks_left_ > 0) {
        row_ += chunk_words * 4;
      }
    }
    return block;
  }

  const std::byte* row_ = nullptr;  // what is to be copied next
  std::int64_t row_stride_ = 0;
  int rows_ = 0;
  std::int64_t chunks_left_ = 0;  // with the one that is read
  std::int64_t words_left_ = 0;   // after them
  std::byte* chunk_ = nullptr;    // being read; changes places with the next when its last block is handed out
  std::byte* next_chunk_ = nullptr;
  alignas(line_bytes) std::byte bytes_[lanes * 4 * std::max(copied, 2 * chunk_words)];
};

/// Walks through blocks of `size` words of 16 rows.
template <class V, int size>
class RowBlocks {
 public:
  using i32 = typename V::i32;

  /// Words [first, end) of the rows.
  RowBlocks(const WeightStrip& strip, std::int64_t first, std::int64_t end, RowCopies<V, size>& copies)
      : copies_(copies), run_(copies.begin(strip, first, end)) {}

  /// Call it once for every block, and no more often.
  [[gnu::always_inline]] void next(i32 (&block)[size]) {
    if (run_.from == run_.until) [[unlikely]] {
      run_ = copies_.after(run_.from);
    }
    unrolled<size / 4>([&]<int load>() __attribute__((always_inline)) {
      i32 words[4];
      V::load_transposed(run_.from + 16 * load, run_.stride, words);
      for (int j = 0; j < 4; ++j) {
        block[4 * load + j] = words[j];
      }
    });
    run_.from += size * 4;
  }

 private:
  RowCopies<V, size>& copies_;
  BlockRun run_;
};

}  // namespace
}  // namespace gqmm::cpu
