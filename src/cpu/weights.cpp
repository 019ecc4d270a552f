#include "cpu/weights.hpp"

#include "formats/registry.hpp"
#include "plan/packed.hpp"

#include <algorithm>
#include <array>

namespace gqmm::cpu {
namespace {

static_assert(strip_width == lanes, "packed strips are what the kernels' lanes run over");

ScaleType scale_type_of(ScaleEncoding encoding, Dtype dtype) {
  switch (encoding) {
    case ScaleEncoding::e8m0: return ScaleType::e8m0;
    case ScaleEncoding::e4m3: return ScaleType::e4m3;
    case ScaleEncoding::floating: break;
  }
  return cpu::scale_type_of(dtype);
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
  for (std::int64_t s = first_strip; s < first_strip + strips; ++s, out += count * lanes) {
    if (problem_.format == nullptr) {
      widen_dense(expert, s, k0, count, out);
    } else {
      format_->dequantize(strip(expert, s), problem_.group_size, k0, count, out);
    }
  }
}

// A group is at least a strip wide and strips are aligned to it, so the 16 outputs of a strip share a group.
std::int64_t Weights::row_scales_size(std::int64_t strips, std::int64_t count) const {
  return 2 * count * std::min(strips, groups_);
}

RowScales Weights::row_scales(std::int64_t expert, std::int64_t first_strip, std::int64_t strips, std::int64_t k0,
                              std::int64_t count, float* out) const {
  const Format& format = *problem_.format;
  const std::int64_t first = first_strip * lanes / problem_.group_size;
  const std::int64_t groups = ((first_strip + strips) * lanes - 1) / problem_.group_size + 1 - first;
  const auto widen = [&](const Rows& rows, std::int64_t itemsize, ScaleType type, float* to) {
    for (std::int64_t k = 0; k < count; ++k) {
      kernels_.widen(rows.first + k * rows.stride + first * itemsize, type, groups, to + k * groups);
    }
  };
  widen(rows_along_n(problem_.scales, &PackedWeights::Data::scales, groups_ * scale_bytes_, expert, k0), scale_bytes_,
        scale_type_, out);
  const float factor = scale_factor(expert) * (format.integer.exists ? format.integer.unit : 1.0F);
  if (factor != 1.0F) {
    std::transform(out, out + count * groups, out, [factor](float scale) { return scale * factor; });
  }
  if (format.has_biases) {
    widen(rows_along_n(problem_.biases, &PackedWeights::Data::biases, groups_ * bias_bytes_, expert, k0), bias_bytes_, bias_type_,
          out + count * groups);
  }
  return {.expert = expert, .k0 = k0, .first_group = first, .groups = groups, .scales = out, .to_biases = count * groups};
}

void Weights::dequantize(const RowScales& scales, std::int64_t first_strip, std::int64_t strips, std::int64_t count,
                         float* out) const {
  for (std::int64_t s = first_strip; s < first_strip + strips; ++s, out += count * lanes) {
    format_->dequantize_rows(code_rows(scales, s), count, out);
  }
}

Ahead Weights::rows_ahead(std::int64_t expert, std::int64_t k0, std::int64_t count) const {
  const std::int64_t exist = std::min(count, problem_.K - k0);
  if (exist <= 0) {
    return {};
  }
  const Rows rows = rows_along_n(problem_.w, &PackedWeights::Data::codes, words_ * 4, expert, k0);
  return {.codes = rows.stride == words_ * 4 ? Run{rows.first, exist * rows.stride} : Run{}, .scales = {}, .biases = {}};
}

CodeRows Weights::code_rows(const RowScales& scales, std::int64_t strip) const {
  const Rows rows = rows_along_n(problem_.w, &PackedWeights::Data::codes, words_ * 4, scales.expert, scales.k0);
  const std::int64_t n0 = strip * lanes;
  const std::int64_t group = n0 / problem_.group_size - scales.first_group;
  return {.codes = rows.first + n0 * problem_.format->bits / 8,
          .row_stride = rows.stride,
          .scales = scales.scales + group,
          .to_bias = scales.to_biases,
          .scale_stride = scales.groups};
}

Weights::Rows Weights::rows_along_n(const MatrixBatch& in_place, array PackedWeights::Data::* packed, std::int64_t row_bytes,
                                    std::int64_t expert, std::int64_t k) const {
  if (problem_.packed != nullptr) {
    return {(problem_.packed->*packed).bytes() + (expert * problem_.K + k) * row_bytes, row_bytes};
  }
  return {in_place.row(expert, k), in_place.row_stride()};
}

void Weights::widen_dense(std::int64_t expert, std::int64_t strip, std::int64_t k0, std::int64_t count, float* out) const {
  const MatrixBatch& b = problem_.w;
  const std::int64_t outputs = strip_outputs(strip);
  const auto itemsize = static_cast<std::int64_t>(size_of(b.dtype()));
  const ScaleType type = scale_type_of(b.dtype());
  const std::byte* first = b.row(expert, k0) + strip * lanes * b.col_stride();
  std::fill_n(out, count * lanes, 0.0F);
  if (b.col_stride() == itemsize) {
    for (std::int64_t k = 0; k < count; ++k) {
      kernels_.widen(first + k * b.row_stride(), type, outputs, out + k * lanes);
    }
  } else if (b.row_stride() == itemsize) {  // columns are contiguous: a transposed view
    float column[128];
    for (std::int64_t n = 0; n < outputs; ++n) {
      kernels_.widen(first + n * b.col_stride(), type, count, column);
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
