#include "cpu/weight_view.hpp"

#include "formats/registry.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace gqmm::cpu {
namespace {

static_assert(strip_width == lanes, "a lane of a kernel is an output of a packed strip");

ScaleType scale_type_of(ScaleEncoding encoding, Dtype dtype) {
  switch (encoding) {
    case ScaleEncoding::e8m0: return ScaleType::e8m0;
    case ScaleEncoding::e4m3: return ScaleType::e4m3;
    case ScaleEncoding::floating: break;
  }
  return cpu::scale_type_of(dtype);
}

}  // namespace

WeightView::WeightView(const WeightMatrices& weights, std::int64_t N, std::int64_t K, const KernelTable& kernels)
    : weights_(weights), kernels_(kernels), quantized_(detail::quantized(weights)), N_(N), K_(K), strips_(strips_of(N)) {
  if (quantized_ == nullptr) {
    return;
  }
  const Format& format = quantized_->format();
  format_ = &kernels.formats[index_of(format)];
  scale_type_ = scale_type_of(format.scale_encoding, quantized_->scales.dtype());
  scale_bytes_ = static_cast<std::int64_t>(size_of(quantized_->scales.dtype()));
  if (format.has_biases) {
    bias_type_ = scale_type_of(ScaleEncoding::floating, quantized_->biases.dtype());
    bias_bytes_ = static_cast<std::int64_t>(size_of(quantized_->biases.dtype()));
  }
  const std::int64_t row = quantized_->transpose() ? K : N;
  words_ = row * format.bits / 32;
  groups_ = row / quantized_->group_size();
}

float WeightView::scale_factor(std::int64_t expert) const {
  const MatrixBatch& global_scale = quantized_->global_scale;
  return global_scale.empty() ? 1.0F : nvfp4_scale_factor(load_unaligned<float>(global_scale.matrix(expert)));
}

ExpertStrips WeightView::strips(std::int64_t expert) const {
  ExpertStrips strips;
  if (quantized_ == nullptr || !quantized_->transpose()) {
    return strips;
  }
  const bool packed = quantized_->layout == WeightLayout::strips;
  strips.N_ = N_;
  WeightStrip& first = strips.first_;
  first.packed = packed;
  first.scale_type = scale_type_;
  first.bias_type = bias_type_;
  first.scale_factor = scale_factor(expert);
  first.words = words_;
  first.groups = groups_;
  // Sets the address of the first strip, the distance of the others, and the bytes of a row.
  const auto set = [&](const MatrixBatch& part, std::int64_t elements, std::int64_t itemsize, const std::byte*& address,
                       std::int64_t& row_stride, std::int64_t& step, std::int64_t& row) {
    if (part.empty()) {
      return;
    }
    row = elements * itemsize;
    if (packed) {
      address = part.matrix(expert * strips_);
      step = strips_ > 1 ? part.matrix(expert * strips_ + 1) - address : 0;
      return;
    }
    address = part.matrix(expert);
    row_stride = part.row_stride();
    step = row_stride * lanes;
    row = row_stride == row ? row : 0;
  };
  set(quantized_->codes, words_, 4, first.codes, first.row_stride, strips.codes_step_, strips.codes_row_);
  set(quantized_->scales, groups_, scale_bytes_, first.scales, first.scale_stride, strips.scales_step_, strips.scales_row_);
  set(quantized_->biases, groups_, bias_bytes_, first.biases, first.bias_stride, strips.biases_step_, strips.biases_row_);
  return strips;
}

void WeightView::dequantize(std::int64_t expert, std::int64_t first_strip, std::int64_t strips, std::int64_t k0,
                            std::int64_t count, float* out) const {
  for (std::int64_t s = first_strip; s < first_strip + strips; ++s, out += count * lanes) {
    if (quantized_ == nullptr) {
      widen_dense(expert, s, k0, count, out);
    } else {
      format_->dequantize(strip(expert, s), quantized_->group_size(), k0, count, out);
    }
  }
}

// Every group size is a multiple of 16, so a strip lies in one group. One k of the strips needs at most as many scales as there
// are strips.
std::int64_t WeightView::block_along_n_size(std::int64_t strips, std::int64_t count) const {
  const std::int64_t scales = 2 * count * std::min(strips, groups_);
  // A run of strips may begin and end within a word.
  return quantized_->in_strips() ? scales + count * std::min(strips * lanes * quantized_->format().bits / 32 + 2, words_)
                                 : scales;
}

BlockAlongN WeightView::block_along_n(std::int64_t expert, std::int64_t first_strip, std::int64_t strips, std::int64_t k0,
                                      std::int64_t count, float* memory) const {
  const Format& format = quantized_->format();
  const std::int64_t group_size = quantized_->group_size();
  Columns groups = {.first = first_strip * lanes / group_size, .count = 0};
  groups.count = ((first_strip + strips) * lanes - 1) / group_size + 1 - groups.first;
  const std::int64_t scales = count * groups.count;
  BlockAlongN block = {.first_group = groups.first, .groups = groups.count, .scales = memory, .to_biases = scales};

  widen_rows(quantized_->scales, scale_type_, expert, k0, count, groups, memory);
  const float factor = scale_factor(expert) * (format.integer.exists ? format.integer.unit : 1.0F);
  if (factor != 1.0F) {
    std::transform(memory, memory + scales, memory, [factor](float scale) { return scale * factor; });
  }
  if (format.has_biases) {
    widen_rows(quantized_->biases, bias_type_, expert, k0, count, groups, memory + scales);
  }
  if (quantized_->in_strips()) {
    const Columns words = words_of_strips(first_strip, strips);
    auto* copies = reinterpret_cast<std::byte*>(memory + 2 * scales);
    copy_words(expert, k0, count, words, copies);
    block.code_stride = words.count * 4;
    block.codes = copies;
    block.first_byte = words.first * 4;
  } else {
    block.code_stride = quantized_->codes.row_stride();
    block.codes = quantized_->codes.row(expert, k0);
  }
  return block;
}

WeightView::Columns WeightView::words_of_strips(std::int64_t first_strip, std::int64_t strips) const {
  const std::int64_t bits_of_strip = std::int64_t{lanes} * quantized_->format().bits;
  const std::int64_t first = first_strip * bits_of_strip / 32;
  const std::int64_t end = ((first_strip + strips) * bits_of_strip + 31) / 32;
  return {.first = first, .count = std::min(end, words_) - first};
}

/// Groups of `count` rows of scales or biases → out, [k][group].
void WeightView::widen_rows(const MatrixBatch& part, ScaleType type, std::int64_t expert, std::int64_t k0, std::int64_t count,
                            Columns groups, float* out) const {
  if (!quantized_->in_strips()) {
    const std::byte* from = part.row(expert, k0) + groups.first * static_cast<std::int64_t>(size_of(part.dtype()));
    for (std::int64_t k = 0; k < count; ++k) {
      kernels_.widen(from + k * part.row_stride(), type, groups.count, out + k * groups.count);
    }
    return;
  }
  for (std::int64_t k = 0; k < count; k += lanes) {
    const std::int64_t matrix = expert * strips_of(K_) + (k0 + k) / lanes;
    const std::int64_t rows = std::min<std::int64_t>(lanes, count - k);
    for (std::int64_t g = 0; g < groups.count; ++g) {
      float line[lanes];
      kernels_.widen(part.row(matrix, groups.first + g), type, lanes, line);
      for (std::int64_t lane = 0; lane < rows; ++lane) {
        out[(k + lane) * groups.count + g] = line[lane];
      }
    }
  }
}

/// Words of `count` rows of codes that lie in strips of k → out, [k][word].
void WeightView::copy_words(std::int64_t expert, std::int64_t k0, std::int64_t count, Columns words, std::byte* out) const {
  for (std::int64_t k = 0; k < count; k += lanes) {
    const std::int64_t matrix = expert * strips_of(K_) + (k0 + k) / lanes;
    const std::int64_t rows = std::min<std::int64_t>(lanes, count - k);
    for (std::int64_t word = 0; word < words.count; ++word) {
      const std::byte* line = quantized_->codes.row(matrix, words.first + word);
      for (std::int64_t lane = 0; lane < rows; ++lane) {
        std::memcpy(out + ((k + lane) * words.count + word) * 4, line + lane * 4, 4);
      }
    }
  }
}

void WeightView::dequantize(const BlockAlongN& rows, std::int64_t first_strip, std::int64_t strips, std::int64_t count,
                            float* out) const {
  for (std::int64_t s = first_strip; s < first_strip + strips; ++s, out += count * lanes) {
    format_->dequantize_along_n(codes_along_n(rows, s), count, out);
  }
}

PrefetchRanges WeightView::ranges_along_n(std::int64_t expert, std::int64_t k0, std::int64_t count) const {
  const std::int64_t exist = std::min(count, K_ - k0);
  const MatrixBatch& codes = quantized_->codes;
  if (exist <= 0 || quantized_->in_strips() || codes.row_stride() != words_ * 4) {
    return {};
  }
  return {.codes = {codes.row(expert, k0), exist * codes.row_stride()}, .scales = {}, .biases = {}};
}

CodesAlongN WeightView::codes_along_n(const BlockAlongN& rows, std::int64_t strip) const {
  const std::int64_t n0 = strip * lanes;
  const std::int64_t group = n0 / quantized_->group_size() - rows.first_group;
  return {.codes = rows.codes + n0 * quantized_->format().bits / 8 - rows.first_byte,
          .row_stride = rows.code_stride,
          .scales = rows.scales + group,
          .to_bias = rows.to_biases,
          .scale_stride = rows.groups};
}

void WeightView::widen_dense(std::int64_t expert, std::int64_t strip, std::int64_t k0, std::int64_t count, float* out) const {
  const MatrixBatch& b = std::get<DenseMatrices>(weights_).b;
  const std::int64_t outputs = strip_outputs(strip);
  const auto itemsize = static_cast<std::int64_t>(size_of(b.dtype()));
  const ScaleType type = scale_type_of(b.dtype());
  const std::byte* first = b.row(expert, k0) + strip * lanes * b.col_stride();
  std::fill_n(out, count * lanes, 0.0F);
  if (b.col_stride() == itemsize) {
    for (std::int64_t k = 0; k < count; ++k) {
      kernels_.widen(first + k * b.row_stride(), type, outputs, out + k * lanes);
    }
  } else if (b.row_stride() == itemsize) {  // the columns are contiguous, as in a transposed view
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
