// pack and unpack: they copy weights between the rows of the checkpoint and the strips of the kernels (plan/packed.hpp draws
// both).
#include "api/check.hpp"
#include "api/weights.hpp"
#include "arrays/contiguous.hpp"
#include "plan/packed.hpp"
#include "threads/node_binding.hpp"
#include "weights/strips.hpp"

#include <gqmm/system.hpp>

#include <cstring>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view op = "pack";

/// Returns a row-major copy in the shape (experts, rows, cols).
array copy_rows(const array& a, std::int64_t experts) {
  const array copy = copy_row_major(a);
  return array::borrow(copy.bytes(), {experts, a.dim(-2), a.dim(-1)}, a.dtype(), {}, copy.owner());
}

/// Returns a global scale in the shape (experts,), one value for each expert.
array per_expert(const array& global_scale, const Shape& leading, std::int64_t experts) {
  const array copy = copy_row_major(global_scale_per_matrix(global_scale, leading));
  return array::borrow(copy.bytes(), {experts}, Dtype::float32, {}, copy.owner());
}

array rearrange(const array& a, bool transpose, std::int64_t experts, int threads) {
  return transpose ? pack_strips(a, threads) : copy_rows(a, experts);
}

array restore(const array& packed, bool transpose, const Shape& shape) {
  return transpose ? unpack_strips(packed, shape)
                   : copy_row_major(array::borrow(packed.bytes(), shape, packed.dtype(), {}, packed.owner()));
}

}  // namespace

PackedWeights pack(const QuantizedWeights& weights, const PackOptions& options) {
  const threads::NodeBinding binding(options.stream);
  check_stream(op, options.stream);
  const QuantizationSettings settings = settings_of(op, weights);
  const WeightExtents extents = check_weights(op, weights, settings, {});
  const Shape leading = leading_shape(weights.w);
  auto data = std::make_shared<PackedWeights::Data>();
  data->settings = settings;
  data->transpose = weights.transpose;
  data->shape = dequantized_shape(weights, extents);
  data->experts = checked_count(op, "w", leading);
  const int threads = options.stream.threads > 0 ? options.stream.threads : get_num_threads();
  const auto packed = [&](const array& a) { return rearrange(a, weights.transpose, data->experts, threads); };
  data->codes = packed(weights.w);
  data->scales = packed(weights.scales);
  if (weights.biases) {
    data->biases = packed(*weights.biases);
  }
  if (weights.global_scale) {
    data->global_scale = per_expert(*weights.global_scale, leading, data->experts);
  }
  return PackedWeights(std::move(data));
}

PackedWeights PackedWeights::with_global_scale(const array& global_scale, std::string_view caller) const {
  if (data_->global_scale.size() != 0) {
    fail(caller, "global_scale is given but w is packed and holds its own; leave it out");
  }
  const Shape leading(data_->shape.begin(), data_->shape.end() - 2);
  check_global_scale(caller, mode(), &global_scale, &leading);
  auto data = std::make_shared<Data>(*data_);
  data->global_scale = per_expert(global_scale, leading, data->experts);
  return PackedWeights(std::move(data));
}

QuantizedWeights unpack(const PackedWeights& packed) {
  const PackedWeights::Data& data = packed.data();
  Shape shape = data.shape;
  const std::int64_t row = shape.back();
  QuantizedWeights weights = {
      .mode = packed.mode(), .bits = packed.bits(), .group_size = packed.group_size(), .transpose = data.transpose};
  shape.back() = row * packed.bits() / 32;
  weights.w = restore(data.codes, data.transpose, shape);
  shape.back() = row / packed.group_size();
  weights.scales = restore(data.scales, data.transpose, shape);
  if (data.format().has_biases) {
    weights.biases = restore(data.biases, data.transpose, shape);
  }
  if (data.global_scale.size() != 0) {
    const Shape leading(shape.begin(), shape.end() - 2);
    array scale = array::empty(leading, Dtype::float32);
    std::memcpy(scale.mutable_bytes(), data.global_scale.bytes(), scale.nbytes());
    weights.global_scale = std::move(scale);
  }
  return weights;
}

Mode PackedWeights::mode() const noexcept { return data_->format().mode; }

int PackedWeights::bits() const noexcept { return data_->format().bits; }

int PackedWeights::group_size() const noexcept { return data_->settings.group_size; }

bool PackedWeights::transpose() const noexcept { return data_->transpose; }

const Shape& PackedWeights::shape() const noexcept { return data_->shape; }

std::size_t PackedWeights::nbytes() const noexcept {
  return data_->codes.nbytes() + data_->scales.nbytes() + data_->biases.nbytes() + data_->global_scale.nbytes();
}

}  // namespace gqmm
