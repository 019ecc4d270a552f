#include "api/floats.hpp"

#include "arrays/contiguous.hpp"
#include "arrays/views.hpp"
#include "cpu/each_row.hpp"
#include "formats/float_types.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace gqmm::detail {
namespace {

/// Calls work(first, last) for pieces of the elements 0 … count − 1, on the threads of the stream.
template <class Work>
void for_pieces(std::size_t count, const Stream& stream, const Work& work) {
  constexpr std::size_t piece = 4096;
  cpu::for_each_row(static_cast<std::int64_t>((count + piece - 1) / piece), piece, stream.threads, [&](std::int64_t i) {
    const std::size_t first = static_cast<std::size_t>(i) * piece;
    work(first, std::min(first + piece, count));
  });
}

}  // namespace

std::vector<float> floats_of(const array& a, const Stream& stream) {
  const array memory = a.is_row_major() ? a : copy_row_major(as_matrices(a));
  std::vector<float> values(static_cast<std::size_t>(a.size()));
  for_pieces(values.size(), stream, [&](std::size_t first, std::size_t last) {
    for (std::size_t i = first; i < last; ++i) {
      values[i] = load_float(memory.bytes() + static_cast<std::int64_t>(i) * memory.itemsize(), memory.dtype());
    }
  });
  return values;
}

array rounded(const std::vector<float>& values, const Shape& shape, Dtype dtype, const Stream& stream) {
  array result = array::empty(shape, dtype);
  std::byte* const memory = result.mutable_bytes();
  for_pieces(values.size(), stream, [&](std::size_t first, std::size_t last) {
    for (std::size_t i = first; i < last; ++i) {
      store_float(memory + static_cast<std::int64_t>(i) * result.itemsize(), dtype, values[i]);
    }
  });
  return result;
}

void add(std::vector<float>& sum, const std::vector<float>& values, const Stream& stream) {
  for_pieces(values.size(), stream, [&](std::size_t first, std::size_t last) {
    for (std::size_t i = first; i < last; ++i) {
      sum[i] += values[i];
    }
  });
}

}  // namespace gqmm::detail
