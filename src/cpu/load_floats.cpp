#include "cpu/load_floats.hpp"

#include "formats/float_types.hpp"

#include <algorithm>

namespace gqmm::cpu {

void load_floats(const KernelTable& kernels, const MatrixBatch& matrices, std::int64_t first, std::int64_t count, float* out) {
  const auto itemsize = static_cast<std::int64_t>(size_of(matrices.dtype()));
  // Rows without gaps are one long row.
  const bool is_one_row = matrices.col_stride() == itemsize && matrices.row_stride() == matrices.cols() * itemsize;
  const std::int64_t length = is_one_row ? matrices.rows() * matrices.cols() : matrices.cols();
  for (std::int64_t n = 0; count > 0; first += n, count -= n, out += n) {
    const std::int64_t row = first / matrices.cols();
    const std::int64_t col = first % matrices.cols();
    n = std::min(count, length - first % length);
    const std::byte* from = matrices.row(row / matrices.rows(), row % matrices.rows()) + col * matrices.col_stride();
    if (matrices.col_stride() == itemsize) {
      kernels.widen(from, scale_type_of(matrices.dtype()), n, out);
      continue;
    }
    for (std::int64_t i = 0; i < n; ++i) {
      out[i] = load_float(from + i * matrices.col_stride(), matrices.dtype());
    }
  }
}

}  // namespace gqmm::cpu
