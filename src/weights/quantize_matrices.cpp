#include "weights/quantize_matrices.hpp"

#include "arrays/matrix_batch.hpp"
#include "threads/float_environment.hpp"
#include "threads/interrupt.hpp"
#include "weights/quantize_group.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <span>
#include <vector>

namespace gqmm::detail {
namespace {

/// Appends codes to a little-endian bit stream. A group always fills whole 32-bit words.
std::byte* pack_codes(std::span<const std::uint8_t> codes, int bits, std::byte* out) {
  std::uint64_t stream = 0;
  int filled = 0;
  for (const std::uint8_t code : codes) {
    stream |= std::uint64_t{code} << filled;
    filled += bits;
    if (filled >= 32) {
      const auto word = static_cast<std::uint32_t>(stream);
      std::memcpy(out, &word, sizeof word);
      out += sizeof word;
      stream >>= 32;
      filled -= 32;
    }
  }
  return out;
}

class GroupQuantizer {
 public:
  GroupQuantizer(const QuantizationSettings& settings, Dtype dtype, float encode, const QuantizedWeights& result)
      : format_(*settings.format),
        dtype_(dtype),
        encode_(encode),
        codes_(static_cast<std::size_t>(settings.group_size)),
        words_(result.w.mutable_bytes()),
        scales_(result.scales.mutable_bytes()),
        biases_(result.biases ? result.biases->mutable_bytes() : nullptr) {}

  void write(std::span<const float> weights) {
    switch (format_.scale_encoding) {
      case ScaleEncoding::floating: {
        const AffineGroup group = quantize_affine_group(weights, format_.bits, codes_.data());
        scales_ = put(scales_, group.scale);
        biases_ = put(biases_, group.bias);
        break;
      }
      case ScaleEncoding::e8m0:
        *scales_++ = std::byte{quantize_e8m0_group(weights, *format_.float_code, dtype_, codes_.data())};
        break;
      case ScaleEncoding::e4m3:
        *scales_++ = std::byte{quantize_e4m3_group(weights, *format_.float_code, dtype_, encode_, codes_.data())};
        break;
    }
    words_ = pack_codes(codes_, format_.bits, words_);
  }

 private:
  std::byte* put(std::byte* to, float value) const {
    store_float(to, dtype_, value);
    return to + size_of(dtype_);
  }

  const Format& format_;
  Dtype dtype_;
  float encode_;
  std::vector<std::uint8_t> codes_;
  std::byte* words_;
  std::byte* scales_;
  std::byte* biases_;
};

/// Returns the first of the weights that does not fit, or their end.
std::span<const float>::iterator find_unfit(std::span<const float> weights, const Format& format, float encode) {
  return std::find_if(weights.begin(), weights.end(), [&](float weight) {
    return (!format.has_biases && !std::isfinite(weight)) || (std::isinf(encode) && weight != 0);
  });
}

}  // namespace

std::optional<UnfitWeight> quantize_matrices(const array& w, const QuantizationSettings& settings, float encode,
                                             const QuantizedWeights& result) {
  const threads::FloatEnvironment environment;
  GroupQuantizer quantizer(settings, w.dtype(), encode, result);
  const MatrixBatch matrices(w);
  const std::int64_t group_size = settings.group_size;
  std::array<float, max_group_size> buffer;
  const std::span<float> weights(buffer.data(), static_cast<std::size_t>(group_size));
  for (std::int64_t matrix = 0; matrix < matrices.count(); ++matrix) {
    for (std::int64_t row = 0; row < matrices.rows(); ++row) {
      const std::byte* address = matrices.row(matrix, row);
      for (std::int64_t first = 0; first < matrices.cols(); first += group_size) {
        if (first % threads::elements_between_questions == 0) {
          threads::throw_if_interrupted();
        }
        for (float& weight : weights) {
          weight = load_float(address, w.dtype());
          address += matrices.col_stride();
        }
        const std::span<const float> group = weights;
        if (const auto unfit = find_unfit(group, *settings.format, encode); unfit != group.end()) {
          return UnfitWeight{(matrix * matrices.rows() + row) * matrices.cols() + first + (unfit - group.begin()), *unfit};
        }
        quantizer.write(weights);
      }
    }
  }
  return std::nullopt;
}

}  // namespace gqmm::detail
