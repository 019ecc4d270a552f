#include "weights/strips.hpp"

#include "arrays/contiguous.hpp"
#include "arrays/matrix_batch.hpp"
#include "plan/weight_matrices.hpp"
#include "threads/share_out.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace gqmm::detail {
namespace {

// Another thread is not worth waking for fewer bytes than this. One thread copies them in about 100 µs.
constexpr std::int64_t bytes_worth_a_thread = 256 * 1024;

}  // namespace

array pack_strips(const array& a, int threads) {
  const MatrixBatch from(a);
  const std::int64_t strips = strips_of(from.rows());
  array packed = array::empty({from.count(), strips, from.cols(), strip_width}, a.dtype());
  const std::int64_t line_bytes = strip_width * a.itemsize();
  const std::int64_t strip_bytes = from.cols() * line_bytes;
  std::byte* to = packed.mutable_bytes();
  const auto worth =
      static_cast<int>(std::min<std::int64_t>(threads, packed.size() * packed.itemsize() / bytes_worth_a_thread + 1));
  threads::share_out(from.count() * strips, worth, [&](std::int64_t i) {
    const std::int64_t row = i % strips * strip_width;
    const std::int64_t rows = std::min(strip_width, from.rows() - row);
    if (rows < strip_width) {
      std::memset(to + i * strip_bytes, 0, static_cast<std::size_t>(strip_bytes));
    }
    copy_matrix({.data = from.row(i / strips, row),
                 .row_stride = from.col_stride(),
                 .col_stride = from.row_stride(),
                 .rows = from.cols(),
                 .cols = rows,
                 .itemsize = a.itemsize()},
                to + i * strip_bytes, line_bytes);
  });
  return packed;
}

array unpack_strips(const array& packed, const Shape& shape) {
  array a = array::empty(shape, packed.dtype());
  const MatrixBatch to(a);
  const std::int64_t strips = strips_of(to.rows());
  const std::int64_t line_bytes = strip_width * to.col_stride();
  for (std::int64_t i = 0; i < to.count() * strips; ++i) {
    const std::int64_t row = i % strips * strip_width;
    copy_matrix({.data = packed.bytes() + i * to.cols() * line_bytes,
                 .row_stride = to.col_stride(),
                 .col_stride = line_bytes,
                 .rows = std::min(strip_width, to.rows() - row),
                 .cols = to.cols(),
                 .itemsize = a.itemsize()},
                a.mutable_bytes() + (to.row(i / strips, row) - a.bytes()), to.row_stride());
  }
  return a;
}

}  // namespace gqmm::detail
