// pack and unpack: weights between the rows of the checkpoint and the strips of the kernels (plan/packed.hpp draws both).
#include "api/check.hpp"
#include "api/contiguous.hpp"
#include "api/weights.hpp"
#include "cpu/backend.hpp"
#include "plan/matrix_batch.hpp"
#include "plan/packed.hpp"
#include "threads/interrupt.hpp"

#include <gqmm/system.hpp>

#include <algorithm>
#include <cstring>

namespace gqmm {
namespace {

constexpr std::string_view op = "pack";

// Below so many bytes, which take a thread some 100 µs, another one is not worth waking.
constexpr std::int64_t bytes_worth_a_thread = 256 * 1024;

std::int64_t bytes_of(const array& a) { return a.size() * static_cast<std::int64_t>(size_of(a.dtype())); }

/// (…, rows, cols) to (experts, strips, cols, 16): element [row, col] becomes [row / 16, col, row % 16]. Each thread writes one
/// contiguous share, which places that memory where it runs; a product over all experts has about the same shares.
array pack_strips(const array& a, int threads) {
  const MatrixBatch from(a);
  const std::int64_t strips = strips_of(from.rows());
  array packed = array::empty({from.count(), strips, from.cols(), strip_width}, a.dtype());
  const std::size_t itemsize = size_of(a.dtype());
  const std::int64_t line_bytes = strip_width * static_cast<std::int64_t>(itemsize);
  const std::int64_t strip_bytes = from.cols() * line_bytes;
  std::byte* to = packed.mutable_bytes();
  const auto worth = static_cast<int>(std::min<std::int64_t>(threads, bytes_of(packed) / bytes_worth_a_thread + 1));
  cpu::share_out(from.count() * strips, worth, [&](std::int64_t i) {
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
                 .itemsize = itemsize},
                to + i * strip_bytes, line_bytes);
  });
  return packed;
}

/// The inverse, to `shape` = leading + (rows, cols).
array unpack_strips(const array& packed, const Shape& shape) {
  array a = array::empty(shape, packed.dtype());
  const MatrixBatch to(a);
  const std::int64_t strips = strips_of(to.rows());
  const std::int64_t line_bytes = strip_width * to.col_stride();
  for (std::int64_t i = 0; i < to.count() * strips; ++i) {
    throw_if_interrupted();
    const std::int64_t row = i % strips * strip_width;
    copy_matrix({.data = packed.bytes() + i * to.cols() * line_bytes,
                 .row_stride = to.col_stride(),
                 .col_stride = line_bytes,
                 .rows = std::min(strip_width, to.rows() - row),
                 .cols = to.cols(),
                 .itemsize = size_of(a.dtype())},
                a.mutable_bytes() + (to.row(i / strips, row) - a.bytes()), to.row_stride());
  }
  return a;
}

/// A row-major copy as (experts, rows, cols).
array copy_rows(const array& a, std::int64_t experts) {
  const array copy = copy_row_major(a);
  return array::borrow(copy.bytes(), {experts, a.dim(-2), a.dim(-1)}, a.dtype(), {}, copy.owner());
}

array rearrange(const array& a, bool transpose, std::int64_t experts, int threads) {
  return transpose ? pack_strips(a, threads) : copy_rows(a, experts);
}

array restore(const array& packed, bool transpose, const Shape& shape) {
  return transpose ? unpack_strips(packed, shape)
                   : copy_row_major(array::borrow(packed.bytes(), shape, packed.dtype(), {}, packed.owner()));
}

}  // namespace

PackedWeights pack(const array& w, const array& scales, const PackOptions& options) {
  check_stream(op, options.stream);
  const QuantizedWeights weights = {
      .w = w,
      .scales = &scales,
      .biases = address_of(options.biases),
      .global_scale = address_of(options.global_scale),
      .settings = resolve_settings(op, options.mode, options.bits, options.group_size),
      .transpose = options.transpose,
  };
  const WeightExtents extents = check_weights(op, weights, {});
  const Shape leading = leading_shape(w);
  auto data = std::make_shared<PackedWeights::Data>();
  data->format = weights.settings.format;
  data->group_size = weights.settings.group_size;
  data->transpose = options.transpose;
  data->shape = leading;
  data->shape.push_back(options.transpose ? extents.N : extents.K);
  data->shape.push_back(options.transpose ? extents.K : extents.N);
  data->experts = checked_count(op, "w", leading);
  const int threads = options.stream.threads > 0 ? options.stream.threads : get_num_threads();
  data->codes = rearrange(w, options.transpose, data->experts, threads);
  data->scales = rearrange(scales, options.transpose, data->experts, threads);
  if (options.biases) {
    data->biases = rearrange(*options.biases, options.transpose, data->experts, threads);
  }
  if (options.global_scale) {
    const array per_expert = copy_row_major(global_scale_per_matrix(*options.global_scale, leading));
    data->global_scale = array::borrow(per_expert.bytes(), {data->experts}, Dtype::float32, {}, per_expert.owner());
  }
  return PackedWeights(std::move(data));
}

UnpackedWeights unpack(const PackedWeights& packed) {
  const PackedWeights::Data& data = packed.data();
  Shape shape = data.shape;
  const std::int64_t row = shape.back();
  UnpackedWeights weights;
  shape.back() = row * data.format->bits / 32;
  weights.w = restore(data.codes, data.transpose, shape);
  shape.back() = row / data.group_size;
  weights.scales = restore(data.scales, data.transpose, shape);
  if (data.format->has_biases) {
    weights.biases = restore(data.biases, data.transpose, shape);
  }
  if (data.global_scale.size() != 0) {
    const Shape leading(shape.begin(), shape.end() - 2);
    array scale = array::empty(leading, Dtype::float32);
    std::memcpy(scale.mutable_bytes(), data.global_scale.bytes(), static_cast<std::size_t>(bytes_of(scale)));
    weights.global_scale = std::move(scale);
  }
  return weights;
}

Mode PackedWeights::mode() const noexcept { return data_->format->mode; }

int PackedWeights::bits() const noexcept { return data_->format->bits; }

int PackedWeights::group_size() const noexcept { return data_->group_size; }

bool PackedWeights::transpose() const noexcept { return data_->transpose; }

const Shape& PackedWeights::shape() const noexcept { return data_->shape; }

std::size_t PackedWeights::nbytes() const noexcept {
  return static_cast<std::size_t>(bytes_of(data_->codes) + bytes_of(data_->scales) + bytes_of(data_->biases) +
                                  bytes_of(data_->global_scale));
}

}  // namespace gqmm
