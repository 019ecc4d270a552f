// The keys and values of one head: where they lie in memory, and blocks of them as panels of float32. Quantized ones are
// dequantized on their way into a panel. So no more than a block of them ever exists in float32.
#pragma once

#include "cpu/attention_call.hpp"
#include "cpu/kernels/attention_table.hpp"
#include "cpu/visible_keys.hpp"

#include <cstddef>
#include <cstdint>

namespace gqmm::cpu {

/// A strip of 16 keys: in place, or a copy. It is a copy if some of its keys do not exist, if a kernel would read behind a key,
/// or if the stride is a multiple of 4096.
struct KeyStrip {
  const std::byte* keys = nullptr;
  std::int64_t stride = 0;
};

class AttentionPanels {
 public:
  /// `matrix` counts the heads of k and v of all batch elements.
  AttentionPanels(const AttentionCall& call, std::int64_t matrix, AttentionScratch& scratch);

  /// All rows of the head in memory.
  [[nodiscard]] const RowRange& keys() const { return keys_; }
  [[nodiscard]] const RowRange& values() const { return values_; }
  /// The rows of a block that exist.
  static RowRange part(const RowRange& rows, const KeyBlock& block);

  /// Returns a strip of a block, counted from the block's begin. Keys that do not exist repeat the first or the last one.
  KeyStrip strip_of(const KeyBlock& block, int strip);
  /// Packs the strips [begin, end) of a block. Strip i of the result has [element][16 keys] at i · key_strip().
  const float* pack_keys(const KeyBlock& block, int begin, int end);
  /// Packs the values of the keys [begin, end) of a block: [strip of 16 elements][key][16], value_strip floats between strips.
  float* pack_values(const KeyBlock& block, int begin, int end);

  [[nodiscard]] std::int64_t key_strip() const { return lanes * call_.padded_depth(); }
  /// An odd number of lines, because strips 8 KiB apart would share sets of the L1 cache.
  static constexpr std::int64_t value_strip = (key_block + 1) * lanes;

 private:
  /// Scales and biases of some rows as float32: [row][group].
  struct Groups {
    const float* scales = nullptr;
    const float* biases = nullptr;
  };
  Groups load_groups(const QuantizedMatrices& matrices, std::int64_t first, std::int64_t rows);
  /// The same of a strip: [group][16 keys]. `groups` has those of the keys [begin, end) of the block.
  Groups groups_of_strip(const Groups& groups, int strip, int begin, int end);

  const AttentionCall& call_;
  std::int64_t matrix_;
  AttentionScratch& scratch_;
  RowRange keys_;
  RowRange values_;
  std::int64_t padded_key_bytes_;  // of a row, as kernels read it
};

}  // namespace gqmm::cpu
