#include "api/weights.hpp"

#include "api/check.hpp"
#include "formats/texts.hpp"

#include <string>

namespace gqmm::detail {
namespace {

void check_words(std::string_view op, const array& w) {
  if (w.dtype() != Dtype::uint32) {
    fail(op, "w has type {}; quantized weights are uint32 words, as quantize returns them", name_of(w.dtype()));
  }
  if (w.rank() < 2) {
    fail(op, "w has shape {}; it needs at least two dimensions", to_string(w.shape()));
  }
}

/// Whether the caller left the array at its default. Arrays of weights cannot look like that, because they have at least two
/// dimensions.
bool is_missing(const array& a) { return a.rank() == 1 && a.bytes() == nullptr; }

void check_scale_types(std::string_view op, const QuantizedWeights& weights, const Format& format) {
  const std::string_view mode = name_of(format.mode);
  if (is_missing(weights.scales)) {
    fail(op, "scales is missing; pass the second array that quantize returns");
  }
  const Dtype dtype = weights.scales.dtype();
  if (format.scale_encoding == ScaleEncoding::floating) {
    if (!is_compute_float(dtype)) {
      fail(op, "scales has type {}; mode \"{}\" takes float32, float16 or bfloat16", name_of(dtype), mode);
    }
  } else if (dtype != Dtype::uint8) {
    fail(op, "scales has type {}; mode \"{}\" takes uint8, the bytes that quantize returns{}", name_of(dtype), mode,
         size_of(dtype) == 1 ? "; if these are such bytes, view them as uint8, for a conversion would change them" : "");
  }
  if (format.has_biases) {
    if (!weights.biases) {
      fail(op, "biases is missing; mode \"{}\" needs it: pass the third array that quantize returns", mode);
    }
    if (!is_compute_float(weights.biases->dtype())) {
      fail(op, "biases has type {}; mode \"{}\" takes float32, float16 or bfloat16", name_of(weights.biases->dtype()), mode);
    }
  } else if (weights.biases) {
    fail(op, "biases is given but mode \"{}\" has none; leave it out", mode);
  }
}

/// Returns the number of codes in a row of w, and checks that it is a multiple of the group size.
std::int64_t check_row(std::string_view op, const array& w, const QuantizationSettings& settings) {
  const auto& [format, group_size] = settings;
  const std::int64_t words = w.dim(-1);
  const std::int64_t bits_in_row = checked_product(op, "bits in a row of w", words, 32);
  if (bits_in_row % (std::int64_t{group_size} * format->bits) != 0) {
    fail(op,
         "w of shape {} has {} words per row, which do not hold a whole number of groups of group_size = {} codes with bits = "
         "{}; check bits and group_size",
         to_string(w.shape()), words, group_size, format->bits);
  }
  return bits_in_row / format->bits;
}

/// Suggests what the caller may have meant, for weights whose K is not x's.
std::string inner_remedy(const QuantizedWeights& weights, const Format& format, std::int64_t N, std::int64_t x_K) {
  const std::int64_t bits_in_row = weights.w.dim(-1) * 32;
  if (weights.transpose ? N == x_K : bits_in_row / format.bits == x_K) {
    return weights.transpose ? "transpose = false would fit" : "transpose = true would fit";
  }
  if (weights.transpose) {
    for (const Format& other : formats()) {
      if (other.mode == format.mode && bits_in_row % other.bits == 0 && bits_in_row / other.bits == x_K) {
        return fmt::format("bits = {} would fit", other.bits);
      }
    }
  }
  return "the last dimension of x must be K";
}

void check_group_array(std::string_view op, const QuantizedWeights& weights, const QuantizationSettings& settings,
                       std::string_view name, const array& a, const Shape& expected) {
  if (a.shape() == expected) {
    return;
  }
  std::string remedy = "pass the arrays of one quantize call";
  const std::int64_t row = expected.back() * settings.group_size;
  for (const int other : settings.format->group_sizes) {
    Shape fitting = expected;
    fitting.back() = row / other;
    if (row % other == 0 && a.shape() == fitting) {
      remedy = fmt::format("group_size = {} would fit", other);
    }
  }
  fail(op, "{} has shape {} but w of shape {} with bits = {} and group_size = {} needs {}; {}", name, to_string(a.shape()),
       to_string(weights.w.shape()), settings.format->bits, settings.group_size, to_string(expected), remedy);
}

}  // namespace

QuantizationSettings resolve_settings(std::string_view op, Mode mode, std::optional<int> bits, std::optional<int> group_size) {
  return resolve_settings(op, mode, bits ? &*bits : nullptr, group_size ? &*group_size : nullptr);
}

void check_whole_groups(std::string_view op, std::string_view what, std::int64_t K, const QuantizationSettings& settings) {
  const std::int64_t group = settings.group_size;
  if (K % group == 0) {
    return;
  }
  std::string remedy = fmt::format("pad {} to K = {}", what, (K / group + 1) * group);
  for (const int other : settings.format->group_sizes) {
    if (other < group && K % other == 0) {
      remedy += fmt::format(" or quantize with group_size = {}", other);
      break;
    }
  }
  fail(op, "K = {} is not a multiple of group_size = {}; {}", K, group, remedy);
}

WeightExtents check_weights(std::string_view op, const QuantizedWeights& weights, const QuantizationSettings& settings,
                            std::optional<std::int64_t> x_K) {
  const array& w = weights.w;
  check_words(op, w);
  check_scale_types(op, weights, *settings.format);
  const Shape leading = leading_shape(w);
  check_global_scale(op, weights.mode, address_of(weights.global_scale), &leading);
  if (x_K == 0) {
    fail(op, "K = 0: the rows of x are empty; K must be positive");
  }
  if ((weights.transpose ? w.dim(-1) : w.dim(-2)) == 0) {
    fail(op, "K = 0: w has shape {}; K must be positive", to_string(w.shape()));
  }
  if (weights.transpose && x_K) {
    check_whole_groups(op, "x and w", *x_K, settings);
  }
  const std::int64_t codes = check_row(op, w, settings);
  const WeightExtents extents = {.N = weights.transpose ? w.dim(-2) : codes, .K = weights.transpose ? codes : w.dim(-2)};
  if (x_K && *x_K != extents.K) {
    fail(op, "x has K = {} but w of shape {} with bits = {} and transpose = {} has K = {}; {}", *x_K, to_string(w.shape()),
         settings.format->bits, weights.transpose, extents.K, inner_remedy(weights, *settings.format, extents.N, *x_K));
  }
  Shape expected = w.shape();
  expected.back() = codes / settings.group_size;
  check_group_array(op, weights, settings, "scales", weights.scales, expected);
  if (weights.biases) {
    check_group_array(op, weights, settings, "biases", *weights.biases, expected);
  }
  return extents;
}

Shape dequantized_shape(const QuantizedWeights& weights, const WeightExtents& extents) {
  Shape shape = leading_shape(weights.w);
  shape.push_back(weights.transpose ? extents.N : extents.K);
  shape.push_back(weights.transpose ? extents.K : extents.N);
  return shape;
}

void check_global_scale(std::string_view op, Mode mode, const array* global_scale, const Shape* leading) {
  if (global_scale == nullptr) {
    return;
  }
  if (!default_format(mode).has_global_scale) {
    fail(op, "global_scale is given but {}", text_without_global_scale(mode));
  }
  if (global_scale->dtype() != Dtype::float32) {
    fail(op, "global_scale has type {}; convert it to float32", name_of(global_scale->dtype()));
  }
  if (global_scale->size() == 1) {
    return;
  }
  if (leading == nullptr) {
    fail(op, "global_scale has shape {}; pass one value", to_string(global_scale->shape()));
  }
  if (global_scale->shape() != *leading) {
    fail(op, "global_scale has shape {} but the leading shape of w is {}; pass one value, or one per matrix",
         to_string(global_scale->shape()), to_string(*leading));
  }
}

array global_scale_per_matrix(const array& global_scale, const Shape& leading) {
  Shape shape = leading;
  Strides strides = global_scale.shape() == leading ? global_scale.strides() : Strides(leading.size(), 0);
  shape.insert(shape.end(), {1, 1});
  strides.insert(strides.end(), {sizeof(float), sizeof(float)});
  return array::borrow(global_scale.bytes(), std::move(shape), Dtype::float32, std::move(strides), global_scale.owner());
}

Dtype result_dtype(const Format& format, Dtype x, Dtype scales, Dtype biases) {
  return format.scale_encoding == ScaleEncoding::floating ? promote(promote(x, scales), biases) : x;
}

}  // namespace gqmm::detail

namespace gqmm {

using namespace detail;

Shape QuantizedWeights::shape(std::string_view op) const {
  return dequantized_shape(*this, check_weights(op, *this, settings_of(op, *this), {}));
}

QuantizedWeights QuantizedWeights::resolved(std::string_view op) const {
  const QuantizationSettings settings = settings_of(op, *this);
  QuantizedWeights weights = *this;
  weights.bits = settings.format->bits;
  weights.group_size = settings.group_size;
  return weights;
}

std::size_t QuantizedWeights::nbytes() const noexcept {
  return w.nbytes() + scales.nbytes() + (biases ? biases->nbytes() : 0) + (global_scale ? global_scale->nbytes() : 0);
}

}  // namespace gqmm
