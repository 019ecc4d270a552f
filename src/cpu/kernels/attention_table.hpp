// The kernels of attention of one instruction set as plain function pointers (docs/reference/numerics.md has the order of their
// operations). They need fma alone, so several instruction sets share one table.
//
// Keys are walked through in blocks of `key_block`, which are aligned to positions. A block's keys are counted from the block's
// begin, also where the first of them do not exist.
#pragma once

#include "cpu/kernels/kernel_table.hpp"

#include <cstddef>
#include <cstdint>

namespace gqmm::cpu {

inline constexpr int key_block = 128;      // keys of a block
inline constexpr int blocks_of_chunk = 8;  // blocks of a chunk, whose result does not depend on other chunks
/// The maximum of no scores. Its exponentials against any score are 0 or 1, so a block without a visible key changes nothing.
inline constexpr float lowest_score = -0x1.fffffep127F;
inline constexpr float log2_e = 0x1.715476p0F;  // log2(e), rounded

/// A range of rows of memory that will be read soon, `stride` bytes apart.
struct RowRange {
  const std::byte* first = nullptr;
  std::int64_t stride = 0;
  std::int64_t row_bytes = 0;
  std::int64_t rows = 0;
};

/// Arguments of scores in place: rows of q times whole strips of 16 keys, as the keys lie in memory.
struct ScoresInPlaceArguments {
  const float* q = nullptr;         // [depth][rows], scaled
  const std::byte* keys = nullptr;  // the first key of the first strip
  std::int64_t key_stride = 0;      // bytes
  std::int64_t depth = 0;           // a multiple of the elements of 16 bytes
  int strips = 0;
  float* s = nullptr;  // [row][key_block], at the first strip
  RowRange prefetch;   // what is prefetched meanwhile
};

/// Arguments of a tile of scores: mr rows of q times nv strips of a panel of keys. k is the depth, at most that of any head.
struct ScoreTileArguments {
  FloatTileOperands tile;
  float* s = nullptr;  // [row][key_block], at the tile's first strip
};

/// The keys of a block that a row sees: those of [begin, end) whose byte of `mask` is not 0, and whose `addend` is not −Inf.
struct VisibleKeys {
  int begin = 0;
  int end = 0;
  const std::uint8_t* mask = nullptr;  // [key_block], or nullptr if all are visible
  const float* addend = nullptr;       // [key_block]: what the mask adds to the scores, or nullptr
};

/// The state of rows of attention: what their keys so far have given.
struct SoftmaxState {
  float* maximum = nullptr;  // [row]
  float* sums = nullptr;     // [row][16]: Σ of the weights of the keys of each lane
};

/// Arguments of a block's softmax for some rows.
struct SoftmaxArguments {
  float* s = nullptr;                    // [row][key_block]: scores. They become weights, and 0 where nothing is visible
  const VisibleKeys* visible = nullptr;  // [row]
  int rows = 0;                          // at most max_tile_rows
  int strip_begin = 0;                   // strips that have scores; all visible keys lie in them
  int strip_end = 0;
  SoftmaxState state;      // takes up the block
  float* old = nullptr;    // [row]: the factor of what a row has so far
  float* fresh = nullptr;  // [row]: the factor of this block
};

/// Arguments of a sum of values as they lie in memory: o = fma(Σ p · v, fresh, o · old).
struct ValuesInPlaceArguments {
  const float* p = nullptr;  // [row][key_block], at the first key
  const std::byte* values = nullptr;
  std::int64_t value_stride = 0;  // bytes
  int keys = 0;
  std::int64_t width = 0;  // elements of a value
  float* o = nullptr;      // [row][o_stride]
  std::int64_t o_stride = 0;
  const float* old = nullptr;    // [row]
  const float* fresh = nullptr;  // [row]
  RowRange prefetch;
};

/// Arguments of the same for a tile: mr rows times nv strips of a panel of values. k counts keys.
struct ValueTileArguments {
  FloatTileOperands tile;
  float* o = nullptr;  // [row][o_stride], at the tile's first strip
  std::int64_t o_stride = 0;
  const float* old = nullptr;    // [row]
  const float* fresh = nullptr;  // [row]
};

/// Arguments of packing rows of keys or values into panels of float32.
struct PackRowsArguments {
  const std::byte* rows = nullptr;
  std::int64_t stride = 0;  // bytes
  int count = 0;            // rows: 16 for keys
  std::int64_t width = 0;   // elements of a row; of keys a multiple of the elements of 16 bytes
  float* panel = nullptr;
  std::int64_t strip_stride = 0;  // of values: floats between strips of 16 elements
  RowRange prefetch;
};

/// Codes that are unpacked together: `bits` whole words of a row. Groups are whole multiples of them.
inline constexpr int codes_of_bundle = 32;
/// The most bits of a code.
inline constexpr int most_code_bits = 8;

/// Arguments of packing quantized rows of keys or values into panels of float32. They lie there as PackRowsArguments has them.
/// For keys of other bits than 4 and 8, up to 12 bytes behind the row must be readable.
struct PackQuantizedRowsArguments {
  const std::byte* rows = nullptr;  // codes
  std::int64_t stride = 0;          // bytes
  int count = 0;                    // rows: 16 for keys
  std::int64_t width = 0;           // elements of a row, a multiple of the group size
  int group_size = 0;
  const float* scales = nullptr;  // of keys [group][16 rows], of values [row][group]
  const float* biases = nullptr;  // likewise
  float* panel = nullptr;
  std::int64_t strip_stride = 0;
  RowRange prefetch;  // with keys alone
};

/// Arguments of merging the state of one row into another.
struct MergeArguments {
  SoftmaxState from;
  const float* from_o = nullptr;  // [width], a multiple of 16
  SoftmaxState into;
  float* into_o = nullptr;
  std::int64_t width = 0;
};

/// In place, rows of q go together by powers of two: 2^i rows for i < in_place_sizes.
inline constexpr int in_place_sizes = 4;
/// The element types of keys and values, in the order of Dtype's compute floats.
enum class FloatKind : std::uint8_t { float32, float16, bfloat16 };
inline constexpr int float_kinds = 3;
constexpr FloatKind float_kind_of(Dtype dtype) {
  return dtype == Dtype::float16 ? FloatKind::float16 : dtype == Dtype::bfloat16 ? FloatKind::bfloat16 : FloatKind::float32;
}

struct AttentionKernels {
  TileSize tile;
  int in_place_rows;  // rows of the largest kernel in place
  void (*scores_in_place[float_kinds][in_place_sizes])(const ScoresInPlaceArguments&);
  /// Sums of bfloat16 values in place come with the even elements of each 32 before the odd ones, as far as there are 32.
  void (*values_in_place[float_kinds][in_place_sizes])(const ValuesInPlaceArguments&);
  /// Keys to [element][16 keys], values to [strip of 16 elements][key][16]. Lanes past the width become zero.
  void (*pack_keys[float_kinds])(const PackRowsArguments&);
  void (*pack_values[float_kinds])(const PackRowsArguments&);
  /// The same for affine codes, by their bits − 1; nullptr where there is no such format.
  void (*pack_quantized_keys[most_code_bits])(const PackQuantizedRowsArguments&);
  void (*pack_quantized_values[most_code_bits])(const PackQuantizedRowsArguments&);
  void (*score_tile[max_tile_rows][max_tile_strips])(const ScoreTileArguments&);
  void (*value_tile[max_tile_rows][max_tile_strips])(const ValueTileArguments&);
  void (*softmax)(const SoftmaxArguments&);
  void (*merge)(const MergeArguments&);
  /// y = o · (1 / Σ sums) + 0 for one row. Returns whether all of y is finite.
  bool (*finish)(const float* sums, const float* o, std::int64_t width, float* y);
};

}  // namespace gqmm::cpu
