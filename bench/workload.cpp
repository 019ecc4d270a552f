#include "workload.hpp"

#include "api/lower.hpp"
#include "formats/float_types.hpp"
#include "machine.hpp"
#include "reference/reference.hpp"

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

/// Fast random bits; not for statistics.
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

/// Eight bytes of codes of a format, of random bits.
///
/// mxfp8: exponents 2^1, 2^3, 2^5 and 2^7, of which no code is a NaN. quantize() divides by the largest weight of 32, so that of
/// normally distributed ones 99 per cent are at least 2 and one in 10,000 is subnormal; of random bytes one in 18 would be, and
/// processors multiply subnormal numbers more slowly.
std::uint64_t codes_of(Mode mode, std::uint64_t bits) {
  return mode == Mode::mxfp8 ? (bits & 0xb7b7b7b7b7b7b7b7U) | 0x4040404040404040U : bits;
}

void fill(std::byte* data, std::size_t bytes, Mode mode, RandomBits& random) {
  for (std::size_t i = 0; i < bytes; i += sizeof(std::uint64_t)) {
    const std::uint64_t bits = codes_of(mode, random());
    std::memcpy(data + i, &bits, std::min(sizeof bits, bytes - i));
  }
}

std::size_t rounded_to_lines(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

std::size_t bytes_of(const Shape& shape, Dtype dtype) { return static_cast<std::size_t>(element_count(shape)) * size_of(dtype); }

/// Scales and biases of the size that trained weights have: ŵ around zero.
void fill_scales(std::byte* scales, std::byte* biases, std::int64_t count, const Case& settings, RandomBits& random) {
  if (settings.mode != Mode::affine) {
    // E8M0: 2^-8 … 2^-5; E4M3: 0.25 … 0.94. Never NaN or Inf.
    const std::uint64_t first = settings.mode == Mode::nvfp4 ? 0x28 : 119;
    const std::uint64_t values = settings.mode == Mode::nvfp4 ? 16 : 4;
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
    store_float(scales + i * step, dtype, scale);
    store_float(biases + i * step, dtype, -scale * middle);
  }
}

/// Copies of the weights that fill the pool; one where they are to stay in cache. Throws std::invalid_argument if the case needs
/// more memory than there is. Counted in double: numbers from a command line may multiply to more than 64 bits.
int copies_for(const Case& settings, std::size_t pool_bytes) {
  const double copy_bytes = settings.bytes_per_expert() * static_cast<double>(settings.shape.experts);
  const double copies = settings.cached ? 1 : std::max(1.0, std::ceil(static_cast<double>(pool_bytes) / copy_bytes));
  const double tokens = static_cast<double>(settings.tokens);
  const double top = static_cast<double>(settings.shape.top);
  const double x_values = tokens * (settings.shape.row_per_pair ? top : 1) * static_cast<double>(settings.shape.K);
  const double y_values = tokens * top * static_cast<double>(settings.shape.N);
  // While weights are packed, the original of one copy is there as well.
  const double needed =
      copy_bytes * (copies + (settings.packed ? 1 : 0)) + (x_values + y_values) * static_cast<double>(size_of(settings.dtype));
  const double available = 0.8 * static_cast<double>(available_memory());
  if (needed > available) {
    throw std::invalid_argument(
        fmt::format("[bench] '{}' needs {:.1f} GB of memory and {:.1f} GB are free; use fewer experts or tokens", settings.name(),
                    needed / 1e9, available / 1e9));
  }
  return static_cast<int>(std::min<double>(copies, std::numeric_limits<int>::max()));
}

}  // namespace

Workload::Workload(const Case& settings, std::size_t pool_bytes, Pages pages)
    : case_(settings), rotation_(settings, copies_for(settings, pool_bytes)) {
  make_activations();
  for (int copy = 0; copy < rotation_.copies(); ++copy) {
    copies_.push_back(make_weights(case_, static_cast<std::uint64_t>(copy) + 1, pages));
  }
}

void Workload::make_activations() {
  const std::int64_t rows = case_.shape.row_per_pair ? case_.shape.top : 1;
  x_ = array::empty({case_.tokens, rows, 1, case_.shape.K}, case_.dtype);
  y_ = array::empty({case_.tokens, case_.shape.top, 1, case_.shape.N}, case_.dtype);
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::byte* x = x_.mutable_bytes();
  for (std::int64_t i = 0; i < x_.size(); ++i) {
    store_float(x + i * static_cast<std::int64_t>(size_of(case_.dtype)), case_.dtype, normal(random));
  }
  std::memset(y_.mutable_bytes(), 0, bytes_of(y_.shape(), y_.dtype()));
}

Workload::Weights Workload::make_weights(const Case& settings, std::uint64_t seed, Pages pages) {
  const auto& shape = settings.shape;
  const std::int64_t rows = settings.transpose ? shape.N : shape.K;
  const std::int64_t columns = settings.transpose ? shape.K : shape.N;
  const Dtype scale_dtype = settings.mode == Mode::affine ? settings.scale_dtype() : Dtype::uint8;
  const Shape w_shape = {shape.experts, rows, columns * settings.bits / 32};
  const Shape scale_shape = {shape.experts, rows, columns / settings.group_size};
  const std::size_t w_bytes = rounded_to_lines(bytes_of(w_shape, Dtype::uint32));
  const std::size_t scale_bytes = rounded_to_lines(bytes_of(scale_shape, scale_dtype));

  Weights weights;
  weights.memory = PageMemory(w_bytes + 2 * scale_bytes, pages);
  std::byte* w = weights.memory.data();
  std::byte* scales = w + w_bytes;
  std::byte* biases = scales + scale_bytes;
  RandomBits random(seed);
  fill(w, w_bytes, settings.mode, random);
  fill_scales(scales, biases, element_count(scale_shape), settings, random);

  weights.w = array::borrow(w, w_shape, Dtype::uint32);
  weights.scales = array::borrow(scales, scale_shape, scale_dtype);
  if (settings.mode == Mode::affine) {
    weights.biases = array::borrow(biases, scale_shape, scale_dtype);
  }
  if (settings.packed) {
    weights.packed = pack(weights.w, weights.scales,
                          {.biases = weights.biases,
                           .group_size = settings.group_size,
                           .bits = settings.bits,
                           .mode = settings.mode,
                           .transpose = settings.transpose});
    // pack has made a copy; error() makes the original again.
    weights.w = array();
    weights.scales = array();
    weights.biases.reset();
    weights.memory = PageMemory();
  }
  return weights;
}

GatherQmmOptions Workload::options(const Call& call, const Weights* in_place) const {
  GatherQmmOptions options;
  options.rhs_indices = array::borrow(call.experts.data(), {case_.tokens, case_.shape.top}, Dtype::uint32);
  options.precision = case_.precision;
  options.stream.threads = case_.threads;
  if (in_place != nullptr) {
    options.scales = in_place->scales;
    options.biases = in_place->biases;
    options.transpose = case_.transpose;
    options.group_size = case_.group_size;
    options.bits = case_.bits;
    options.mode = case_.mode;
  }
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
  const Weights& weights = copies_[static_cast<std::size_t>(call.copy)];
  GatherQmmOptions settings = options(call, weights.packed ? nullptr : &weights);
  settings.out = y_;
  if (weights.packed) {
    gather_qmm(x_, *weights.packed, settings);
  } else {
    gather_qmm(x_, weights.w, settings);
  }
}

ErrorEstimate Workload::error(int samples) const {
  const Call& call = calls_[done_ - 1];
  std::optional<Weights> original;
  const Weights* weights = &copies_[static_cast<std::size_t>(call.copy)];
  if (weights->packed) {
    Case in_place = case_;
    in_place.packed = false;
    original = make_weights(in_place, static_cast<std::uint64_t>(call.copy) + 1, Pages::standard);
    weights = &*original;
  }
  const Lowered lowered = lower_gather_qmm(x_, weights->w, options(call, weights));
  std::mt19937 random(11);
  std::uniform_int_distribution<std::int64_t> any_pair(0, case_.pairs() - 1);
  std::uniform_int_distribution<std::int64_t> any_output(0, case_.shape.N - 1);
  double errors = 0;
  double values = 0;
  ErrorEstimate estimate;
  for (int sample = 0; sample < samples; ++sample) {
    const std::int64_t pair = any_pair(random);
    const std::int64_t n = any_output(random);
    const ReferenceValue reference = reference_value(lowered.problem, pair, 0, n);
    const auto offset = (pair * case_.shape.N + n) * static_cast<std::int64_t>(size_of(case_.dtype));
    const float y = load_float(y_.bytes() + offset, case_.dtype);
    errors += (static_cast<double>(y) - reference.y) * (static_cast<double>(y) - reference.y);
    values += reference.y * reference.y;
    estimate.bound = std::max(estimate.bound, error_fraction(lowered.problem, reference, y));
  }
  estimate.relative = std::sqrt(errors / values);
  return estimate;
}

}  // namespace gqmm::bench
