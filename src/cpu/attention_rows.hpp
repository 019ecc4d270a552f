// Attention of some rows of one head of k and v: the rows' scaled queries, their state, and what a block of keys adds to it.
//
// A row is a query of one head of q. The rows of a RowSet are ordered by query, and then by head, so rows of a tile see about the
// same keys.
#pragma once

#include "cpu/attention_call.hpp"
#include "cpu/attention_panels.hpp"
#include "cpu/kernels/attention_table.hpp"
#include "cpu/visible_keys.hpp"

#include <cstddef>
#include <cstdint>

namespace gqmm::cpu {

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

class AttentionRows {
 public:
  /// Loads the rows' queries.
  AttentionRows(const AttentionCall& call, const RowSet& set, AttentionScratch& scratch);

  [[nodiscard]] std::int64_t rows() const { return rows_; }

  /// Adds the blocks [blocks.begin, blocks.end) to the state, in this order.
  void add_blocks(const KeyBlocks& blocks, const RowStates& state);
  /// Sets the state in which a row begins: that of no key, with its sink.
  void begin(std::int64_t row, const RowStates& state) const;
  /// Merges one row's state into another.
  void merge(const RowStates& from, const RowStates& into) const;
  /// Writes y of a row whose keys are all in `state`. It changes the state.
  void finish(std::int64_t row, const RowStates& state);

 private:
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

  /// Finds what every row sees of the block, and returns what they see together.
  KeyRange find_visible(const KeyBlock& block);
  [[nodiscard]] KeyRange range_of(std::int64_t row, std::int64_t rows) const;
  void add_block_in_place(const KeyBlock& block, const KeyRange& range, const KeyBlock& next, const RowStates& state);
  void add_block_packed(const KeyBlock& block, const KeyRange& range, const RowStates& state);
  void interleave(std::int64_t row, int rows);
  /// The scores of rows, at most a tile of them, against strips [begin, end) of a panel.
  void scores_of_panel(std::int64_t row, int rows, const float* keys, int strip_begin, int strip_end);
  /// Takes up Σ p · v of rows, at most a tile of them, over values of a panel. The weights p are those of the tile's scores from
  /// key `first` on.
  void take_up_values(const float* values, int first, int keys, int rows, const float* old, const float* fresh,
                      const RowStates& state);
  void softmax_of(std::int64_t row, int rows, const KeyRange& range, float* old, float* fresh, const RowStates& state);
  /// Computes a row again, with the keys alone that it sees.
  void compute_carefully(std::int64_t row, float* y);
  void add_block_carefully(std::int64_t row, const KeyBlock& block, bool equal_scores, const RowStates& state);
  [[nodiscard]] bool sees_any(std::int64_t row) const;
  /// Puts sums of values in place into the order of the elements.
  void restore_order(float* o) const;

  const AttentionCall& call_;
  RowSet set_;
  AttentionScratch& scratch_;
  std::int64_t group_;
  std::int64_t rows_;
  std::int64_t depth_;  // padded
  std::int64_t width_;  // padded
  AttentionPanels panels_;
  float* q_;                 // [row][depth]
  float* interleaved_q_;     // groups of in_place_rows, then of smaller powers of two: [element][row of the group]
  VisibleKeys* visible_;     // [row]
  bool knows_mean_ = false;  // the mean of all values is in scratch_.mean
};

/// The chunk that a block belongs to, and the blocks of a chunk that lie in a range.
std::int64_t chunk_of(std::int64_t block);
KeyBlocks blocks_of_chunk_in(std::int64_t chunk, const KeyBlocks& range);

}  // namespace gqmm::cpu
