#include "measure/workload.hpp"

#include "api/lower.hpp"
#include "formats/float_types.hpp"
#include "reference/moe.hpp"
#include "reference/reference.hpp"
#include "tools/machine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <utility>

namespace gqmm::bench {
namespace {

/// A fast generator of random bits. It is not good enough for statistics.
class RandomBits {
 public:
  explicit RandomBits(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15U + 1) {}
  std::uint64_t operator()() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

 private:
  std::uint64_t state_;
};

/// Makes eight bytes of codes of a format from random bits.
///
/// Codes that are 8-bit floats get exponents whose first bit is 1 and whose last bit is 0. So none is Inf, NaN or subnormal: with
/// E4M3 the powers are 2^1, 2^3, 2^5 and 2^7. Real codes are similar. quantize() divides by the largest of 32 weights. If the
/// weights are normally distributed, 99 per cent of the codes are at least 2, and one in 10,000 is subnormal. Of random bytes one
/// in 18 would be subnormal, and processors multiply subnormal numbers more slowly.
std::uint64_t codes_of(const detail::Format& format, std::uint64_t bits) {
  if (!format.float_code || format.bits != 8) {
    return bits;
  }
  constexpr std::uint64_t every_byte = 0x0101010101010101U;
  const std::uint64_t first = every_byte << (format.bits - 2);
  const std::uint64_t last = every_byte << format.float_code->mantissa_bits;
  return (bits & ~(first | last)) | first;
}

void fill(std::byte* data, std::size_t bytes, const detail::Format& format, RandomBits& random) {
  for (std::size_t i = 0; i < bytes; i += sizeof(std::uint64_t)) {
    const std::uint64_t bits = codes_of(format, random());
    std::memcpy(data + i, &bits, std::min(sizeof bits, bytes - i));
  }
}

std::size_t rounded_to_lines(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

/// Returns the number of bytes that an array of this shape and type has.
std::size_t nbytes_for(const Shape& shape, Dtype dtype) {
  return static_cast<std::size_t>(element_count(shape)) * size_of(dtype);
}

/// Fills scales and biases with values of the size that trained weights have. The dequantized weights ŵ lie around zero.
void fill_scales(std::byte* scales, std::byte* biases, std::int64_t count, const Case& settings, RandomBits& random) {
  const detail::ScaleEncoding encoding = settings.format().scale_encoding;
  if (encoding != detail::ScaleEncoding::floating) {
    // Scales in E8M0 are 2^-8 … 2^-5, and scales in E4M3 are 0.25 … 0.94. None is NaN or Inf.
    const std::uint64_t first = encoding == detail::ScaleEncoding::e4m3 ? 0x28 : 119;
    const std::uint64_t values = encoding == detail::ScaleEncoding::e4m3 ? 16 : 4;
    for (std::int64_t i = 0; i < count; ++i) {
      scales[i] = static_cast<std::byte>(first + random() % values);
    }
    return;
  }
  const Dtype dtype = settings.scale_dtype();
  const auto step = static_cast<std::int64_t>(size_of(dtype));
  const float middle = static_cast<float>((1 << settings.bits) - 1) / 2;
  for (std::int64_t i = 0; i < count; ++i) {
    const float scale = 0.01F * (1.0F + static_cast<float>(random() % 1024) / 1024.0F);
    detail::store_float(scales + i * step, dtype, scale);
    detail::store_float(biases + i * step, dtype, -scale * middle);
  }
}

/// Returns the number of copies of the weights that fill the pool. It is one if the weights are to stay in cache. Throws
/// std::invalid_argument if the case needs more memory than there is. Bytes are counted in double, because products of numbers
/// from a command line may exceed 64 bits.
int copies_for(const Case& settings, std::size_t pool_bytes) {
  const double copy_bytes = settings.bytes(static_cast<double>(settings.shape.experts));
  const double copies = settings.cached ? 1 : std::max(1.0, std::ceil(static_cast<double>(pool_bytes) / copy_bytes));
  const double tokens = static_cast<double>(settings.tokens);
  const double top = static_cast<double>(settings.shape.top);
  const double slots = tokens * (top + static_cast<double>(settings.shape.shared_experts));
  const double h_values = settings.shape.whole ? slots * static_cast<double>(settings.shape.N + settings.shape.K) : 0;
  const double x_values = tokens * (settings.shape.row_per_pair ? top : 1) * static_cast<double>(settings.shape.K);
  const double y_values = tokens * top * static_cast<double>(settings.shape.N);
  // While a copy is packed, its original needs memory too.
  const double needed = copy_bytes * (copies + (settings.packed ? 1 : 0)) +
                        (x_values + y_values) * static_cast<double>(size_of(settings.dtype)) +
                        h_values * static_cast<double>(sizeof(float));
  const double available = 0.8 * static_cast<double>(tools::available_memory());
  if (needed > available) {
    throw std::invalid_argument(
        fmt::format("[bench] '{}' needs {:.1f} GB of memory and {:.1f} GB are free; use fewer experts or tokens", settings.name(),
                    needed / 1e9, available / 1e9));
  }
  return static_cast<int>(std::min<double>(copies, std::numeric_limits<int>::max()));
}

/// Adds up the errors of samples.
class ErrorSum {
 public:
  void add(float y, double reference, double fraction_of_bound) {
    errors_ += (static_cast<double>(y) - reference) * (static_cast<double>(y) - reference);
    values_ += reference * reference;
    bound_ = std::max(bound_, fraction_of_bound);
  }
  [[nodiscard]] ErrorEstimate estimate() const { return {std::sqrt(errors_ / values_), bound_}; }

 private:
  double errors_ = 0;
  double values_ = 0;
  double bound_ = 0;
};

}  // namespace

Workload::Workload(const Case& settings, std::size_t pool_bytes, Pages pages)
    : case_(settings), rotation_(settings, copies_for(settings, pool_bytes)) {
  make_activations();
  for (int copy = 0; copy < rotation_.copies(); ++copy) {
    copies_.push_back(make_weights(case_, static_cast<std::uint64_t>(copy) + 1, pages));
  }
}

void Workload::make_activations() {
  const LayerShape& shape = case_.shape;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const auto values = [&](const Shape& extents, Dtype dtype, float deviation) {
    array a = array::empty(extents, dtype);
    for (std::int64_t i = 0; i < a.size(); ++i) {
      detail::store_float(a.mutable_bytes() + i * a.itemsize(), dtype, deviation * normal(random));
    }
    return a;
  };
  if (shape.whole) {
    x_ = values({case_.tokens, shape.K}, case_.dtype, 1);
    y_ = array::empty({case_.tokens, shape.K}, case_.dtype);
    router_weights_ = values({case_.tokens, shape.top}, Dtype::float32, 1);
    if (shape.gpt_oss) {
      biases_of_h_ = values({shape.experts, shape.N}, case_.dtype, 0.1F);
      biases_of_y_ = values({shape.experts, shape.K}, case_.dtype, 0.1F);
    }
  } else {
    x_ = values({case_.tokens, shape.row_per_pair ? shape.top : 1, 1, shape.K}, case_.dtype, 1);
    y_ = array::empty({case_.tokens, shape.top, 1, shape.N}, case_.dtype);
  }
  std::memset(y_.mutable_bytes(), 0, y_.nbytes());
}

Workload::WeightCopy Workload::make_weights(const Case& settings, std::uint64_t seed, Pages pages) {
  const LayerShape& shape = settings.shape;
  WeightCopy copy;
  copy.push_back(make_projection(settings, shape.experts, shape.N, shape.K, seed, pages));
  if (shape.whole) {
    copy.push_back(make_projection(settings, shape.experts, shape.N, shape.K, seed + 0x10000, pages));
    copy.push_back(make_projection(settings, shape.experts, shape.K, shape.N, seed + 0x20000, pages));
  }
  if (shape.shared_experts > 0) {
    const std::int64_t inner = shape.shared_experts * shape.N;
    copy.push_back(make_projection(settings, 1, inner, shape.K, seed + 0x30000, pages));
    copy.push_back(make_projection(settings, 1, inner, shape.K, seed + 0x40000, pages));
    copy.push_back(make_projection(settings, 1, shape.K, inner, seed + 0x50000, pages));
  }
  return copy;
}

Workload::Projection Workload::make_projection(const Case& settings, std::int64_t experts, std::int64_t N, std::int64_t K,
                                               std::uint64_t seed, Pages pages) {
  const std::int64_t rows = settings.transpose ? N : K;
  const std::int64_t columns = settings.transpose ? K : N;
  const Dtype scale_dtype = settings.format().has_biases ? settings.scale_dtype() : Dtype::uint8;
  const Shape w_shape = {experts, rows, columns * settings.bits / 32};
  const Shape scale_shape = {experts, rows, columns / settings.group_size};
  const std::size_t w_bytes = rounded_to_lines(nbytes_for(w_shape, Dtype::uint32));
  const std::size_t scale_bytes = rounded_to_lines(nbytes_for(scale_shape, scale_dtype));

  Projection weights;
  weights.memory = PageMemory(w_bytes + 2 * scale_bytes, pages);
  std::byte* w = weights.memory.data();
  std::byte* scales = w + w_bytes;
  std::byte* biases = scales + scale_bytes;
  RandomBits random(seed);
  fill(w, w_bytes, settings.format(), random);
  fill_scales(scales, biases, element_count(scale_shape), settings, random);

  weights.in_place = {.w = array::borrow(w, w_shape, Dtype::uint32),
                      .scales = array::borrow(scales, scale_shape, scale_dtype),
                      .mode = settings.mode,
                      .bits = settings.bits,
                      .group_size = settings.group_size,
                      .transpose = settings.transpose};
  if (settings.format().has_biases) {
    weights.in_place.biases = array::borrow(biases, scale_shape, scale_dtype);
  }
  if (settings.packed) {
    weights.packed = pack(weights.in_place);
    // The original is freed, because pack has made a copy. error() makes the original again.
    weights.in_place = {};
    weights.memory = PageMemory();
  }
  return weights;
}

array Workload::ids(const Call& call) const {
  return array::borrow(call.experts.data(), {case_.tokens, case_.shape.top}, Dtype::uint32);
}

MoeFfnOptions Workload::layer_options(const WeightCopy& weights) const {
  MoeFfnOptions options;
  options.activation = case_.shape.activation();
  if (case_.shape.shared_experts > 0) {
    options.shared = SharedExperts{.gate = weights[3].weights(), .up = weights[4].weights(), .down = weights[5].weights()};
  }
  options.gate_bias = biases_of_h_;
  options.up_bias = biases_of_h_;
  options.down_bias = biases_of_y_;
  options.precision = case_.precision;
  options.stream.threads = case_.threads;
  return options;
}

GatherQmmOptions Workload::options(const Call& call) const {
  GatherQmmOptions options;
  options.rhs_indices = ids(call);
  options.precision = case_.precision;
  options.stream.threads = case_.threads;
  return options;
}

double Workload::prepare(int calls) {
  calls_.resize(static_cast<std::size_t>(calls));
  std::int64_t experts_hit = 0;
  for (Call& call : calls_) {
    call.experts.resize(static_cast<std::size_t>(case_.pairs()));
    const Rotation::Hit hit = rotation_.next(call.experts);
    call.copy = hit.copy;
    experts_hit += hit.experts;
  }
  done_ = 0;
  return static_cast<double>(experts_hit) / calls;
}

void Workload::call() {
  const Call& call = calls_[done_++];
  const WeightCopy& weights = copies_[static_cast<std::size_t>(call.copy)];
  if (case_.shape.whole) {
    MoeFfnOptions settings = layer_options(weights);
    settings.out = y_;
    moe_ffn(x_, ids(call), router_weights_, weights[0].weights(), weights[1].weights(), weights[2].weights(), settings);
    return;
  }
  GatherQmmOptions settings = options(call);
  settings.out = y_;
  if (weights.front().packed) {
    gather_qmm(x_, *weights.front().packed, settings);
  } else {
    gather_qmm(x_, weights.front().in_place, settings);
  }
}

const Workload::WeightCopy& Workload::weights_in_place(const Call& call, std::optional<WeightCopy>& original) const {
  const WeightCopy& weights = copies_[static_cast<std::size_t>(call.copy)];
  if (!weights.front().packed) {
    return weights;
  }
  Case in_place = case_;
  in_place.packed = false;
  original = make_weights(in_place, static_cast<std::uint64_t>(call.copy) + 1, Pages::standard);
  return *original;
}

/// The error of some outputs of one token.
ErrorEstimate Workload::layer_error(int samples, const WeightCopy& weights, const Call& call) const {
  const detail::LoweredMoe lowered = detail::lower_moe_ffn(x_, ids(call), router_weights_, weights[0].in_place,
                                                           weights[1].in_place, weights[2].in_place, layer_options(weights));
  std::mt19937 random(11);
  const std::int64_t H = case_.shape.K;
  const std::int64_t token = std::uniform_int_distribution<std::int64_t>(0, case_.tokens - 1)(random);
  std::uniform_int_distribution<std::int64_t> any_output(0, H - 1);
  std::vector<std::int64_t> outputs(static_cast<std::size_t>(samples));
  std::generate(outputs.begin(), outputs.end(), [&] { return any_output(random); });
  const std::vector<detail::MoeReference> references = detail::reference_moe(lowered.problem, token, outputs);
  ErrorSum sum;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const float y = detail::load_float(y_.bytes() + (token * H + outputs[i]) * y_.itemsize(), case_.dtype);
    sum.add(y, references[i].y, detail::error_fraction(references[i].y, references[i].bound, y));
  }
  return sum.estimate();
}

ErrorEstimate Workload::error(int samples) const {
  const Call& call = calls_[done_ - 1];
  std::optional<WeightCopy> original;
  const WeightCopy& weights = weights_in_place(call, original);
  if (case_.shape.whole) {
    return layer_error(samples, weights, call);
  }
  const detail::Lowered lowered = detail::lower_gather_qmm(x_, weights.front().in_place, options(call));
  std::mt19937 random(11);
  std::uniform_int_distribution<std::int64_t> any_pair(0, case_.pairs() - 1);
  std::uniform_int_distribution<std::int64_t> any_output(0, case_.shape.N - 1);
  ErrorSum sum;
  for (int sample = 0; sample < samples; ++sample) {
    const std::int64_t pair = any_pair(random);
    const std::int64_t n = any_output(random);
    const detail::ReferenceValue reference = reference_value(lowered.problem, pair, 0, n);
    const auto offset = (pair * case_.shape.N + n) * y_.itemsize();
    const float y = detail::load_float(y_.bytes() + offset, case_.dtype);
    sum.add(y, reference.y, error_fraction(lowered.problem, reference, y));
  }
  return sum.estimate();
}

}  // namespace gqmm::bench
