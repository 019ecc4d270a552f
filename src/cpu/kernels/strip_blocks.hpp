// Loads blocks of words of 16 rows of w, transposed, one block after the other.
//
// Rows are read where they lie, 16 bytes at a time. So each line is read four times, and the lines of all 16 rows must stay in L1
// meanwhile. They cannot if rows are a multiple of 4096 bytes apart, because their lines then share a set of L1. Such rows are
// copied in chunks, each chunk while the one before it is used. Strips of fewer than 16 rows are copied before they are used. So
// are the words at the end that do not fill a block.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/copy_strip_rows.hpp"
#include "cpu/kernels/unrolled.hpp"

#include <algorithm>
#include <utility>

namespace gqmm::cpu {
namespace {

/// A range of blocks side by side, in rows `stride` bytes apart: where the blocks of the first row begin and end.
struct BlockRange {
  const std::byte* from;
  std::int64_t stride;
  const std::byte* until;
};

/// Copies the parts of a strip that cannot be read in place, and knows how far the copying is. A walk through the blocks needs
/// these members rarely, so they are kept out of registers.
template <class V, int size>
class StripCopies {
 public:
  StripCopies() = default;
  StripCopies(const StripCopies&) = delete;  // because it points into itself
  StripCopies& operator=(const StripCopies&) = delete;

  /// Begins with the words [first, end) of the rows, and returns the first range of blocks.
  BlockRange begin(const WeightStrip& strip, std::int64_t first, std::int64_t end) {
    GQMM_ASSERT(strip.rows >= 1 && strip.rows <= lanes);
    GQMM_ASSERT(first >= 0 && first < end && end <= strip.words);
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

  /// Returns the next range of blocks. `at` is the end of the blocks that have been read.
  [[gnu::always_inline]] BlockRange after(const std::byte* at) {
    if (chunks_left_ > 0) {
      return next_of_chunk(at);
    }
    GQMM_ASSERT(words_left_ > 0);
    const std::int64_t words = std::min<std::int64_t>(copied, words_left_);
    copy_strip_rows<copied * 4, size * 4>(row_, row_stride_, rows_, words * 4, bytes_);
    row_ += words * 4;
    words_left_ -= words;
    return {bytes_, copied * 4, bytes_ + copied * 4};
  }

 private:
  /// Rows whose distance is a multiple of this share a set of L1. Most processors have 64 sets of 8 or 12 lines.
  static constexpr std::int64_t one_set = 4096;
  static constexpr int copied =
      64 / size * size;  // words copied at a time; with fewer, the calls would cost as much as the copying
  /// A chunk has two lines of each row, because processors fetch lines in pairs. (That holds where rows begin with a line.)
  static constexpr int chunk_words = 2 * lanes;
  static constexpr bool has_chunks = chunk_words % size == 0;

  /// Copies `size` / 2 rows of the chunk at row_. After the last of the chunk's 32 / size blocks, all 16 rows are copied.
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

  /// Returns the next block of a chunk, and copies a part of the chunk after it.
  [[gnu::always_inline]] BlockRange next_of_chunk(const std::byte* at) {
    if (at == next_chunk_ + chunk_words * 4) {
      at = chunk_;
    }
    const BlockRange block = {at, chunk_words * 4, at + size * 4};
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

  const std::byte* row_ = nullptr;  // the first row of what is copied next
  std::int64_t row_stride_ = 0;
  int rows_ = 0;
  std::int64_t chunks_left_ = 0;  // chunks left, with the one that is being read
  std::int64_t words_left_ = 0;   // words left after the chunks
  std::byte* chunk_ = nullptr;    // the chunk being read; it is swapped with the next one when its last block is handed out
  std::byte* next_chunk_ = nullptr;
  alignas(line_bytes) std::byte bytes_[lanes * 4 * std::max(copied, 2 * chunk_words)];
};

/// Walks through blocks of `size` words of 16 rows.
template <class V, int size>
class StripBlocks {
 public:
  using i32 = typename V::i32;

  /// Begins with the words [first, end) of the rows.
  StripBlocks(const WeightStrip& strip, std::int64_t first, std::int64_t end, StripCopies<V, size>& copies)
      : copies_(copies), run_(copies.begin(strip, first, end)) {}

  /// Loads the next block. It must be called exactly once for every block.
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
  StripCopies<V, size>& copies_;
  BlockRange run_;
};

}  // namespace
}  // namespace gqmm::cpu
