// quantize: the last dimension of a float array in groups.
#include "api/check.hpp"
#include "api/quantize_group.hpp"
#include "api/weights.hpp"
#include "cpu/float_environment.hpp"
#include "plan/matrix_batch.hpp"
#include "threads/interrupt.hpp"

#include <gqmm/ops.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace gqmm {
namespace {

constexpr std::string_view op = "quantize";

void check_input(const array& w, const QuantizationSettings& settings) {
  check_compute_float(op, "w", w);
  if (w.rank() < 2) {
    fail(op, "w has shape {}; it needs at least two dimensions: reshape it to (1, K) for a single row", to_string(w.shape()));
  }
  if (w.dim(-1) == 0) {
    fail(op, "K = 0: w has shape {}; K must be positive", to_string(w.shape()));
  }
  check_whole_groups(op, "w", w.dim(-1), settings);
}

/// The factor from a scale to its stored form; infinite if the largest magnitude of w is said to be zero.
float scale_encoding_factor(const array* global_scale) {
  if (global_scale == nullptr) {
    return 1.0F;
  }
  const auto largest = load_unaligned<float>(global_scale->bytes());
  if (!(largest >= 0.0F) || std::isinf(largest)) {
    fail(op, "global_scale = {}; it must be the largest magnitude of w: finite, and positive unless w is all zeros", largest);
  }
  return (448.0F * 6.0F) / largest;
}

void check_finite(const array& w, std::int64_t matrix, std::int64_t row, std::int64_t first, std::span<const float> weights,
                  Mode mode) {
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (!std::isfinite(weights[i])) {
      const std::int64_t position = (matrix * w.dim(-2) + row) * w.dim(-1) + first + static_cast<std::int64_t>(i);
      fail(op, "w{} = {}; mode \"{}\" takes finite values only", position_text(w.shape(), position), weights[i], name_of(mode));
    }
  }
}

/// Appends codes to a little-endian bit stream; a group fills whole 32-bit words.
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
  GroupQuantizer(const QuantizationSettings& settings, Dtype dtype, float encode, const Quantized& result)
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
      case ScaleEncoding::e8m0: *scales_++ = std::byte{quantize_e8m0_group(weights, format_, dtype_, codes_.data())}; break;
      case ScaleEncoding::e4m3: *scales_++ = std::byte{quantize_e4m3_group(weights, dtype_, encode_, codes_.data())}; break;
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

}  // namespace

Quantized quantize(const array& w, const QuantizeOptions& options) {
  check_stream(op, options.stream);
  const QuantizationSettings settings = resolve_settings(op, options.mode, options.bits, options.group_size);
  const Format& format = *settings.format;
  check_input(w, settings);
  check_global_scale(op, options.mode, address_of(options.global_scale), nullptr);

  const std::int64_t group_size = settings.group_size;
  Shape shape = w.shape();
  shape.back() = w.dim(-1) / group_size * (group_size * format.bits / 32);
  Quantized result{.w = array::empty(shape, Dtype::uint32), .scales = {}, .biases = {}};
  shape.back() = w.dim(-1) / group_size;
  result.scales = array::empty(shape, format.scale_encoding == ScaleEncoding::floating ? w.dtype() : Dtype::uint8);
  if (format.has_biases) {
    result.biases = array::empty(shape, w.dtype());
  }

  const cpu::FloatEnvironment environment;
  const float encode = scale_encoding_factor(address_of(options.global_scale));
  GroupQuantizer quantizer(settings, w.dtype(), encode, result);
  const MatrixBatch matrices(w);
  std::array<float, max_group_size> buffer;
  const std::span<float> weights(buffer.data(), static_cast<std::size_t>(group_size));
  for (std::int64_t matrix = 0; matrix < matrices.count(); ++matrix) {
    for (std::int64_t row = 0; row < matrices.rows(); ++row) {
      throw_if_interrupted();
      const std::byte* address = matrices.row(matrix, row);
      for (std::int64_t first = 0; first < matrices.cols(); first += group_size) {
        for (float& weight : weights) {
          weight = load_float(address, w.dtype());
          address += matrices.col_stride();
        }
        if (!format.has_biases) {
          check_finite(w, matrix, row, first, weights, format.mode);
        }
        if (std::isinf(encode) && std::any_of(weights.begin(), weights.end(), [](float weight) { return weight != 0; })) {
          fail(op, "global_scale = {} but w is not all zeros; it must be the largest magnitude of w",
               load_unaligned<float>(options.global_scale->bytes()));
        }
        quantizer.write(weights);
      }
    }
  }
  return result;
}

}  // namespace gqmm
