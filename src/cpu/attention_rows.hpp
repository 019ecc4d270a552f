// Attention of some rows of one head of k and v: the rows' scaled queries, their state, and what a block of keys adds to it.
//
// A row is a query of one head of q. The rows of a RowSet are ordered by query, and then by head, so rows of a tile see about the
// same keys.
#pragma once

#include "cpu/kernels/attention_table.hpp"
#include "cpu/scratch.hpp"
#include "cpu/visible_keys.hpp"
#include "plan/attention_problem.hpp"

#include <cstddef>
#include <cstdint>

namespace gqmm::cpu {

/// What all rows of a call share.
struct AttentionCall {
  const AttentionProblem& problem;
  const KernelTable& kernels;
  const AttentionKernels& attention;
  bool in_place;  // keys and values are read as they lie in memory, and not packed: faster for few rows

  /// Floats of a row of sums: the width of v, up to whole vectors.
  [[nodiscard]] std::int64_t padded_width() const { return (problem.width() + lanes - 1) / lanes * lanes; }
  /// Elements of a row of q and k, up to whole pieces of 16 bytes.
  [[nodiscard]] std::int64_t padded_depth() const { return (problem.depth() + padding - 1) / padding * padding; }

 private:
  static constexpr std::int64_t padding = 8;
};

/// Rows: the queries [first_query, first_query + queries) of the heads of q that share a head of k and v.
struct RowSet {
  std::int64_t batch = 0;
  std::int64_t kv_head = 0;
  std::int64_t first_query = 0;
  std::int64_t queries = 0;
};

/// The state of `rows` rows in memory of their own: maxima, sums of lanes, and sums of values.
struct RowStates {
  float* maximum = nullptr;  // [row]
  float* sums = nullptr;     // [row][16]
  float* o = nullptr;        // [row][padded_width]

  /// Floats that the state of some rows takes.
  static std::int64_t floats(std::int64_t rows, std::int64_t padded_width) {
    return rows * (lanes + padded_width) + padded(rows);
  }
  /// Divides memory of that size, which must be aligned to a line.
  static RowStates in(float* memory, std::int64_t rows) {
    return {memory, memory + padded(rows), memory + padded(rows) + rows * lanes};
  }
  /// The state of row `row` and those after it.
  [[nodiscard]] RowStates from(std::int64_t row, std::int64_t padded_width) const {
    return {maximum + row, sums + row * lanes, o + row * padded_width};
  }
  [[nodiscard]] SoftmaxState softmax() const { return {maximum, sums}; }
  /// Sets the state of rows that have seen no key.
  void clear(std::int64_t rows, std::int64_t padded_width) const;

 private:
  static std::int64_t padded(std::int64_t rows) { return (rows + lanes - 1) / lanes * lanes; }
};

/// Buffers of one thread.
struct AttentionScratch {
  Scratch q;
  Scratch interleaved_q;
  Scratch chunks;
  Scratch totals;
  Scratch careful;
  Scratch mean;
  Scratch scores;
  Scratch keys;
  Scratch values;
  Scratch copied_keys;
  Scratch copied_values;
  Scratch visible;
  Scratch masks;
  Scratch y;
};

class AttentionRows {
 public:
  /// Loads the rows' queries.
  AttentionRows(const AttentionCall& call, const RowSet& set, AttentionScratch& scratch);

  [[nodiscard]] std::int64_t rows() const { return rows_; }

  /// Adds the blocks [blocks.begin, blocks.end) to the state, in this order.
  void add_blocks(const BlockRange& blocks, const RowStates& state);
  /// Sets the state in which a row begins: that of no key, with its sink.
  void begin(std::int64_t row, const RowStates& state) const;
  /// Merges one row's state into another.
  void merge(const RowStates& from, const RowStates& into) const;
  /// Writes y of a row whose keys are all in `state`. It changes the state.
  void finish(std::int64_t row, const RowStates& state);

 private:
  /// A strip of 16 keys: in place, or a copy where the strip, or the last 16 bytes of its keys, do not exist whole.
  struct KeyStrip {
    const std::byte* keys = nullptr;
    std::int64_t stride = 0;
  };
  /// The keys of a block that some rows see.
  struct KeyRange {
    int begin = key_block;
    int end = 0;
    [[nodiscard]] bool empty() const { return begin >= end; }
    void include(const VisibleKeys& visible) {
      if (visible.begin < visible.end) {
        begin = visible.begin < begin ? visible.begin : begin;
        end = visible.end > end ? visible.end : end;
      }
    }
    [[nodiscard]] int strip_begin() const { return begin / lanes; }
    [[nodiscard]] int strip_end() const { return (end + lanes - 1) / lanes; }
  };

  [[nodiscard]] std::int64_t head_of(std::int64_t row) const { return set_.kv_head * group_ + row % group_; }
  [[nodiscard]] std::int64_t query_of(std::int64_t row) const { return set_.first_query + row / group_; }
  [[nodiscard]] const std::byte* key(std::int64_t j) const { return keys_ + j * call_.problem.k.row_stride(); }
  [[nodiscard]] const std::byte* value(std::int64_t j) const { return values_ + j * call_.problem.v.row_stride(); }

  /// Finds what every row sees of the block, and returns what they see together.
  KeyRange find_visible(const KeyBlock& block);
  [[nodiscard]] KeyRange range_of(std::int64_t row, std::int64_t rows) const;
  KeyStrip strip_of(const KeyBlock& block, int strip);
  void add_block_in_place(const KeyBlock& block, const KeyRange& range, const KeyBlock& next, const RowStates& state);
  void add_block_packed(const KeyBlock& block, const KeyRange& range, const RowStates& state);
  void interleave(std::int64_t row, int rows);
  void softmax_of(std::int64_t row, int rows, const KeyRange& range, float* old, float* fresh, const RowStates& state);
  /// Computes a row again, with the keys alone that it sees.
  void compute_carefully(std::int64_t row, float* y);
  void add_block_carefully(std::int64_t row, const KeyBlock& block, bool equal_scores, const RowStates& state);
  [[nodiscard]] bool sees_any(std::int64_t row) const;
  [[nodiscard]] RowRange range_in_memory(const std::byte* first, std::int64_t stride, std::int64_t row_bytes,
                                         const KeyBlock& block) const;
  /// Puts sums of values in place into the order of the elements.
  void restore_order(float* o) const;

  const AttentionCall& call_;
  RowSet set_;
  AttentionScratch& scratch_;
  std::int64_t group_;
  std::int64_t rows_;
  std::int64_t depth_;  // padded
  std::int64_t width_;  // padded
  FloatKind k_kind_;
  FloatKind v_kind_;
  const std::byte* keys_;
  const std::byte* values_;
  float* q_;                 // [row][depth]
  float* interleaved_q_;     // groups of in_place_rows, then of smaller powers of two: [element][row of the group]
  VisibleKeys* visible_;     // [row]
  bool knows_mean_ = false;  // the mean of all values is in scratch_.mean
};

/// The chunk that a block belongs to, and the blocks of a chunk that lie in a range.
std::int64_t chunk_of(std::int64_t block);
BlockRange blocks_of_chunk_in(std::int64_t chunk, const BlockRange& range);

}  // namespace gqmm::cpu
