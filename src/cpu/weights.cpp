#include "cpu/weights.hpp"

#include "formats/registry.hpp"
#include "plan/packed.hpp"

#include <algorithm>

namespace gqmm::cpu {
namespace {

static_assert(strip_width == lanes, "packed strips are what the kernels' lanes run over");

ScaleType scale_type_of(ScaleEncoding encoding, Dtype dtype) {
  switch (encoding) {
    case ScaleEncoding::e8m0: return ScaleType::e8m0;
    case ScaleEncoding::e4m3: return ScaleType::e4m3;
    case ScaleEncoding::floating: break;
  }
  switch (dtype) {
    case Dtype::float16: return ScaleType::float16;
    case Dtype::bfloat16: return ScaleType::bfloat16;
    default: return ScaleType::float32;
  }
}

float load_stored(const std::byte* address, ScaleType type) {
  switch (type) {
    case ScaleType::float32: return load_unaligned<float>(address);
    case ScaleType::float16: return float_from_float16(load_unaligned<std::uint16_t>(address));
    case ScaleType::bfloat16: return float_from_bfloat16(load_unaligned<std::uint16_t>(address));
    case ScaleType::e8m0: return float_from_e8m0(static_cast<std::uint8_t>(*address));
    case ScaleType::e4m3: break;
  }
  return float_from_e4m3(static_cast<std::uint8_t>(*address));
}

}  // namespace

Weights::Weights(const Problem& problem, const KernelTable& kernels)
    : problem_(problem), kernels_(kernels), strips_(strips_of(problem.N)) {
  if (problem.format == nullptr) {
    return;
  }
  const PackedWeights::Data* packed = problem.packed;
  const Dtype scale_dtype = packed != nullptr ? packed->scales.dtype() : problem.scales.dtype();
  scale_type_ = scale_type_of(problem.format->scale_encoding, scale_dtype);
  scale_bytes_ = static_cast<std::int64_t>(size_of(scale_dtype));
  if (problem.format->has_biases) {
    const Dtype bias_dtype = packed != nullptr ? packed->biases.dtype() : problem.biases.dtype();
    bias_type_ = scale_type_of(ScaleEncoding::floating, bias_dtype);
    bias_bytes_ = static_cast<std::int64_t>(size_of(bias_dtype));
  }
  format_ = &kernels.formats[index_of(*problem.format)];
  const std::int64_t along = problem.transpose ? problem.K : problem.N;
  words_ = along * problem.format->bits / 32;
  groups_ = along / problem.group_size;
}

float Weights::scale_factor(std::int64_t expert) const {
  return problem_.global_scale.empty() ? 1.0F : nvfp4_scale_factor(load_unaligned<float>(problem_.global_scale.matrix(expert)));
}

WeightStrip Weights::strip(std::int64_t expert, std::int64_t strip) const {
  WeightStrip result;
  result.scale_type = scale_type_;
  result.bias_type = bias_type_;
  result.scale_factor = scale_factor(expert);
  result.words = words_;
  result.groups = groups_;
  if (problem_.packed != nullptr) {
    const PackedWeights::Data& packed = *problem_.packed;
    const std::int64_t position = expert * strips_ + strip;
    const std::int64_t scales = position * groups_ * lanes;  // elements before this strip's
    result.packed = true;
    result.codes = packed.codes.bytes() + position * words_ * lanes * 4;
    result.scales = packed.scales.bytes() + scales * scale_bytes_;
    result.biases = problem_.format->has_biases ? packed.biases.bytes() + scales * bias_bytes_ : nullptr;
    return result;
  }
  const std::int64_t n0 = strip * lanes;
  result.rows = strip_outputs(strip);
  result.codes = problem_.w.row(expert, n0);
  result.row_stride = problem_.w.row_stride();
  result.scales = problem_.scales.row(expert, n0);
  result.scale_stride = problem_.scales.row_stride();
  if (problem_.format->has_biases) {
    result.biases = problem_.biases.row(expert, n0);
    result.bias_stride = problem_.biases.row_stride();
  }
  return result;
}

Ahead Weights::ahead(std::int64_t expert, std::int64_t strip, std::int64_t count) const {
  const WeightStrip first = this->strip(expert, strip);
  const std::int64_t rows = first.packed ? count * lanes : std::min(count * lanes, problem_.N - strip * lanes);
  const auto run = [&](const std::byte* begin, std::int64_t row_stride, std::int64_t row_bytes) {
    return first.packed || row_stride == row_bytes ? Run{begin, rows * row_bytes} : Run{};
  };
  return {.codes = run(first.codes, first.row_stride, words_ * 4),
          .scales = run(first.scales, first.scale_stride, groups_ * scale_bytes_),
          .biases = run(first.biases, first.bias_stride, groups_ * bias_bytes_)};
}

void Weights::dequantize(std::int64_t expert, std::int64_t first_strip, std::int64_t strips, std::int64_t k0, std::int64_t count,
                         float* out) const {
  if (problem_.format != nullptr && !problem_.transpose) {
    dequantize_rows(expert, first_strip, strips, k0, count, out);
    return;
  }
  for (std::int64_t s = first_strip; s < first_strip + strips; ++s, out += count * lanes) {
    if (problem_.format == nullptr) {
      widen_dense(expert, s, k0, count, out);
    } else {
      format_->dequantize(strip(expert, s), problem_.group_size, k0, count, out);
    }
  }
}

// Row k holds the codes of all n, grouped along n. A group is at least a strip wide and strips are aligned to it, so all 16
// outputs share one scale per k, and the strips of a group, too.
void Weights::dequantize_rows(std::int64_t expert, std::int64_t first_strip, std::int64_t strips, std::int64_t k0,
                              std::int64_t count, float* out) const {
  const Format& format = *problem_.format;
  const PackedWeights::Data* packed = problem_.packed;
  const std::int64_t row_stride = packed != nullptr ? words_ * 4 : problem_.w.row_stride();
  const std::byte* codes =
      packed != nullptr ? packed->codes.bytes() + (expert * problem_.K + k0) * row_stride : problem_.w.row(expert, k0);
  const std::byte* scales = nullptr;
  const std::byte* biases = nullptr;
  std::int64_t scale_stride = groups_ * scale_bytes_;
  std::int64_t bias_stride = groups_ * bias_bytes_;
  if (packed != nullptr) {
    scales = packed->scales.bytes() + (expert * problem_.K + k0) * scale_stride;
    biases = format.has_biases ? packed->biases.bytes() + (expert * problem_.K + k0) * bias_stride : nullptr;
  } else {
    scales = problem_.scales.row(expert, k0);
    scale_stride = problem_.scales.row_stride();
    biases = format.has_biases ? problem_.biases.row(expert, k0) : nullptr;
    bias_stride = problem_.biases.row_stride();
  }
  const float factor = scale_factor(expert);
  float scale_bias[2 * 128];
  std::int64_t known_group = -1;
  for (std::int64_t strip = first_strip; strip < first_strip + strips; ++strip, out += count * lanes) {
    const std::int64_t n0 = strip * lanes;
    const std::int64_t group = n0 / problem_.group_size;
    for (std::int64_t k = 0; k < count && group != known_group; ++k) {
      scale_bias[2 * k] = load_stored(scales + k * scale_stride + group * scale_bytes_, scale_type_) * factor;
      scale_bias[2 * k + 1] = biases != nullptr ? load_stored(biases + k * bias_stride + group * bias_bytes_, bias_type_) : 0.0F;
    }
    known_group = group;
    format_->dequantize_rows(codes + n0 * format.bits / 8, row_stride, scale_bias, count, out);
  }
}

void Weights::widen_dense(std::int64_t expert, std::int64_t strip, std::int64_t k0, std::int64_t count, float* out) const {
  const MatrixBatch& b = problem_.w;
  const std::int64_t outputs = strip_outputs(strip);
  const auto itemsize = static_cast<std::int64_t>(size_of(b.dtype()));
  const std::byte* first = b.row(expert, k0) + strip * lanes * b.col_stride();
  std::fill_n(out, count * lanes, 0.0F);
  if (b.col_stride() == itemsize) {
    for (std::int64_t k = 0; k < count; ++k) {
      kernels_.widen(first + k * b.row_stride(), b.dtype(), outputs, out + k * lanes);
    }
  } else if (b.row_stride() == itemsize) {  // columns are contiguous: a transposed view
    float column[128];
    for (std::int64_t n = 0; n < outputs; ++n) {
      kernels_.widen(first + n * b.col_stride(), b.dtype(), count, column);
      for (std::int64_t k = 0; k < count; ++k) {
        out[k * lanes + n] = column[k];
      }
    }
  } else {
    for (std::int64_t k = 0; k < count; ++k) {
      for (std::int64_t n = 0; n < outputs; ++n) {
        out[k * lanes + n] = load_float(first + k * b.row_stride() + n * b.col_stride(), b.dtype());
      }
    }
  }
}

}  // namespace gqmm::cpu
