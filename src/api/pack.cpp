// pack and unpack: weights between the rows of the checkpoint and the strips of the kernels (plan/packed.hpp draws both).
#include "api/check.hpp"
#include "api/contiguous.hpp"
#include "api/weights.hpp"
#include "plan/matrix_batch.hpp"
#include "plan/packed.hpp"

#include <algorithm>
#include <cstring>

namespace gqmm {
namespace {

constexpr std::string_view op = "pack";

std::int64_t strips_of(std::int64_t rows) { return rows / strip_width + (rows % strip_width != 0 ? 1 : 0); }

/// (…, rows, cols) to (experts, strips, cols, 16): element [row, col] becomes [row / 16, col, row % 16].
array pack_strips(const array& a) {
  const MatrixBatch from(a);
  const std::int64_t strips = strips_of(from.rows());
  array packed = array::empty({from.count(), strips, from.cols(), strip_width}, a.dtype());
  const std::size_t itemsize = size_of(a.dtype());
  const std::size_t bytes = static_cast<std::size_t>(packed.size()) * itemsize;
  std::byte* to = packed.mutable_bytes();
  if (from.rows() % strip_width != 0 && bytes != 0) {
    std::memset(to, 0, bytes);
  }
  for (std::int64_t expert = 0; expert < from.count(); ++expert) {
    for (std::int64_t strip = 0; strip < strips; ++strip) {
      const std::byte* rows = from.row(expert, strip * strip_width);
      const std::int64_t lanes = std::min(strip_width, from.rows() - strip * strip_width);
      for (std::int64_t col = 0; col < from.cols(); ++col) {
        for (std::int64_t lane = 0; lane < lanes; ++lane) {
          std::memcpy(to + static_cast<std::size_t>(lane) * itemsize, rows + lane * from.row_stride() + col * from.col_stride(),
                      itemsize);
        }
        to += static_cast<std::size_t>(strip_width) * itemsize;
      }
    }
  }
  return packed;
}

/// The inverse, to `shape` = leading + (rows, cols).
array unpack_strips(const array& packed, const Shape& shape) {
  array a = array::empty(shape, packed.dtype());
  const MatrixBatch to(a);
  const std::size_t itemsize = size_of(a.dtype());
  const std::int64_t cols = to.cols();
  for (std::int64_t expert = 0; expert < to.count(); ++expert) {
    for (std::int64_t row = 0; row < to.rows(); ++row) {
      const std::int64_t strip = expert * strips_of(to.rows()) + row / strip_width;
      const std::int64_t first = strip * cols * strip_width + row % strip_width;
      std::byte* out = a.mutable_bytes() + (to.row(expert, row) - a.bytes());
      for (std::int64_t col = 0; col < cols; ++col) {
        std::memcpy(out + static_cast<std::size_t>(col) * itemsize,
                    packed.bytes() + static_cast<std::size_t>(first + col * strip_width) * itemsize, itemsize);
      }
    }
  }
  return a;
}

/// A row-major copy as (experts, rows, cols).
array copy_rows(const array& a, std::int64_t experts) {
  const array copy = copy_row_major(a);
  return array::borrow(copy.bytes(), {experts, a.dim(-2), a.dim(-1)}, a.dtype(), {}, copy.owner());
}

array rearrange(const array& a, bool transpose, std::int64_t experts) {
  return transpose ? pack_strips(a) : copy_rows(a, experts);
}

array restore(const array& packed, bool transpose, const Shape& shape) {
  return transpose ? unpack_strips(packed, shape)
                   : copy_row_major(array::borrow(packed.bytes(), shape, packed.dtype(), {}, packed.owner()));
}

std::size_t bytes_of(const array& a) { return static_cast<std::size_t>(a.size()) * size_of(a.dtype()); }

}  // namespace

PackedWeights pack(const array& w, const array& scales, const PackOptions& options) {
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
  data->scale_dtype = scales.dtype();
  data->codes = rearrange(w, options.transpose, data->experts);
  data->scales = rearrange(scales, options.transpose, data->experts);
  if (options.biases) {
    data->biases = rearrange(*options.biases, options.transpose, data->experts);
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
    std::memcpy(scale.mutable_bytes(), data.global_scale.bytes(), bytes_of(scale));
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
  return bytes_of(data_->codes) + bytes_of(data_->scales) + bytes_of(data_->biases) + bytes_of(data_->global_scale);
}

}  // namespace gqmm
