#include "conformance/support/problems.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string_view>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr std::string_view name_of(IndexForm form) {
  switch (form) {
    case IndexForm::both: return "lhs and rhs";
    case IndexForm::grid: return "lhs (T, 1) and rhs (T, 2)";
    case IndexForm::rhs_only: return "rhs only";
    case IndexForm::lhs_only: return "lhs only";
    case IndexForm::neither: break;
  }
  return "no indices";
}

constexpr std::string_view name_of(Values values) {
  switch (values) {
    case Values::normal: return "normal";
    case Values::positive: return "positive";
    case Values::group_scaled: return "group-scaled";
    case Values::sparse: break;
  }
  return "sparse";
}

std::size_t to_size(std::int64_t count) { return static_cast<std::size_t>(count); }

void make_indices(const Spec& spec, Contents& c, Random& random) {
  const std::int64_t experts = spec.experts();
  for (std::int64_t expert = 0; expert < experts; ++expert) {
    c.rhs.insert(c.rhs.end(), to_size(spec.pairs[to_size(expert)]), expert);
  }
  if (!spec.sorted) {
    random.shuffle(std::span(c.rhs));
  }
  const auto count = static_cast<std::int64_t>(c.rhs.size());

  c.w_leading = {experts};
  if (experts % 2 == 0 && random.chance(0.5)) {
    c.w_leading = random.chance(0.5) ? Shape{2, experts / 2} : Shape{experts / 2, 1, 2};
  }
  IndexForm form = spec.index_form;
  if (count % 2 != 0 && (form == IndexForm::grid || form == IndexForm::rhs_only)) {
    form = IndexForm::both;
  }
  const auto random_lhs = [&](std::int64_t how_many, std::int64_t below) {
    c.lhs.resize(to_size(how_many));
    std::generate(c.lhs.begin(), c.lhs.end(), [&] { return random.integer(0, below - 1); });
  };
  switch (form) {
    case IndexForm::both:
      c.x_leading = {std::max<std::int64_t>(1, count * 2 / 3)};
      random_lhs(count, c.x_leading[0]);
      c.lhs_shape = c.rhs_shape = {count};
      break;
    case IndexForm::grid:
      c.x_leading = {count / 2 + 1};
      random_lhs(count / 2, c.x_leading[0]);
      c.lhs_shape = {count / 2, 1};
      c.rhs_shape = {count / 2, 2};
      break;
    case IndexForm::rhs_only:
      c.x_leading = {count / 2, 1};
      c.rhs_shape = {count / 2, 2};
      break;
    case IndexForm::lhs_only:
      c.x_leading = {std::max<std::int64_t>(1, experts / 2)};
      random_lhs(experts, c.x_leading[0]);
      c.lhs_shape = c.w_leading;
      c.rhs.clear();
      break;
    case IndexForm::neither:
      c.w_leading = {experts};
      c.x_leading = {2, 1};
      c.rhs.clear();
      break;
  }
}

float next_x(const Spec& spec, std::size_t at, double& group_scale, Random& random) {
  switch (spec.values) {
    case Values::normal: break;
    case Values::positive: return static_cast<float>(random.uniform());
    case Values::group_scaled:
      if (at % 16 == 0) {
        group_scale = std::exp2(static_cast<double>(random.integer(-6, 2)));
      }
      return static_cast<float>(random.normal() * group_scale);
    case Values::sparse:
      if (random.chance(0.7)) {
        return random.chance(0.5) ? 0.0F : -0.0F;
      }
  }
  return static_cast<float>(random.normal());
}

// Scales of trained size, such that sums of a few thousand terms stay inside float16.
void make_scales(const Spec& spec, std::size_t groups, Contents& c, Random& random) {
  const Format& format = *spec.format;
  switch (format.scale_encoding) {
    case ScaleEncoding::floating: {
      const double largest = format.integer.max_u;
      for (std::size_t i = 0; i < groups; ++i) {
        const double magnitude = std::exp2(random.uniform(-3, 0)) / largest;
        const double scale = random.chance(0.8) ? magnitude : -magnitude;
        c.scales.push_back(static_cast<float>(scale));
        c.biases.push_back(static_cast<float>(random.chance(0.9) ? -scale * largest * random.uniform(0.3, 0.7) : 0.0));
      }
      break;
    }
    case ScaleEncoding::e8m0: {
      const int most = 2 - std::ilogb(largest_value(*format.float_code));  // weights of magnitudes below 8
      for (std::size_t i = 0; i < groups; ++i) {
        c.scale_bytes.push_back(static_cast<std::uint8_t>(127 + random.integer(most - 6, most)));
      }
      break;
    }
    case ScaleEncoding::e4m3:
      for (std::size_t i = 0; i < groups; ++i) {
        const std::int64_t sign = random.chance(0.1) ? 0x80 : 0;
        c.scale_bytes.push_back(static_cast<std::uint8_t>(sign | random.integer(random.chance(0.05) ? 0 : 0x10, 0x40)));
      }
      break;
  }
}

void make_weights(const Spec& spec, Contents& c, Random& random) {
  const std::int64_t weights = spec.experts() * spec.N * spec.K;
  if (spec.format == nullptr) {
    c.b.resize(to_size(weights));
    std::generate(c.b.begin(), c.b.end(), [&] { return static_cast<float>(random.normal() * 0.25); });
    return;
  }
  c.w.resize(to_size(weights * spec.format->bits / 32));
  for (std::uint32_t& word : c.w) {
    word = static_cast<std::uint32_t>(random.bits());
    if (spec.values == Values::positive) {
      word |= static_cast<std::uint32_t>(random.bits()) | static_cast<std::uint32_t>(random.bits());
    }
    if (has_special_codes(*spec.format)) {  // ordinary weights are finite
      const SmallFloat& type = *spec.format->float_code;
      for (int byte = 0; byte < 32; byte += 8) {
        const unsigned magnitude = word >> byte & type.magnitude_mask();
        word ^= magnitude >= type.first_special() ? (type.magnitude_mask() + 1 - type.first_special()) << byte : 0U;
      }
    }
  }
  make_scales(spec, to_size(weights / spec.group_size), c, random);
  if (spec.global_scale) {
    c.global_scales.resize(to_size(spec.experts()));
    std::generate(c.global_scales.begin(), c.global_scales.end(), [&] { return static_cast<float>(random.uniform(50, 3000)); });
  }
}

template <class T>
std::vector<std::byte> bytes_as(std::span<const std::int64_t> values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const T value = static_cast<T>(values[i]);
    std::memcpy(bytes.data() + i * sizeof(T), &value, sizeof(T));
  }
  return bytes;
}

array lay_out_indices(const Shape& shape, std::span<const std::int64_t> values, bool strided, Random& random) {
  const std::int64_t largest = values.empty() ? 0 : *std::max_element(values.begin(), values.end());
  // A wild arrangement of indices may not broadcast (steps of zero), which would change the problem: sliced instead.
  const Layout layout =
      strided ? random.one_of({Layout::contiguous, Layout::odd_address, Layout::sliced, Layout::reversed}) : Layout::contiguous;
  switch (random.integer(largest < 128 ? 0 : largest < 32768 ? 2 : 4, 7)) {
    case 0: return lay_out(bytes_as<std::int8_t>(values), shape, Dtype::int8, layout, random);
    case 1: return lay_out(bytes_as<std::uint8_t>(values), shape, Dtype::uint8, layout, random);
    case 2: return lay_out(bytes_as<std::int16_t>(values), shape, Dtype::int16, layout, random);
    case 3: return lay_out(bytes_as<std::uint16_t>(values), shape, Dtype::uint16, layout, random);
    case 4: return lay_out(bytes_as<std::int32_t>(values), shape, Dtype::int32, layout, random);
    case 5: return lay_out(bytes_as<std::uint32_t>(values), shape, Dtype::uint32, layout, random);
    case 6: return lay_out(bytes_as<std::int64_t>(values), shape, Dtype::int64, layout, random);
    default: return lay_out(bytes_as<std::uint64_t>(values), shape, Dtype::uint64, layout, random);
  }
}

Shape with_matrix(Shape leading, std::int64_t rows, std::int64_t cols) {
  leading.push_back(rows);
  leading.push_back(cols);
  return leading;
}

std::span<const std::byte> as_bytes(std::span<const std::uint8_t> values) { return std::as_bytes(values); }

// b (experts, K, N) in memory as (experts, N, K) with the last two dimensions swapped by strides.
array lay_out_k_contiguous(const Spec& spec, const Contents& c, Layout layout, Random& random) {
  std::vector<float> swapped(c.b.size());
  for (std::int64_t expert = 0; expert < spec.experts(); ++expert) {
    for (std::int64_t k = 0; k < spec.K; ++k) {
      for (std::int64_t n = 0; n < spec.N; ++n) {
        swapped[to_size((expert * spec.N + n) * spec.K + k)] = c.b[to_size((expert * spec.K + k) * spec.N + n)];
      }
    }
  }
  const array rows =
      lay_out(bytes_of(swapped, spec.scale_dtype), with_matrix(c.w_leading, spec.N, spec.K), spec.scale_dtype, layout, random);
  Shape shape = rows.shape();
  Strides strides = rows.strides();
  std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
  std::swap(strides[strides.size() - 1], strides[strides.size() - 2]);
  return array::borrow(rows.bytes(), shape, rows.dtype(), strides, rows.owner());
}

struct CodePlace {
  std::size_t word;
  int shift;
  int in_first_word;  // bits of the code in that word; the rest are in the next
};

CodePlace place_of(const Spec& spec, std::int64_t expert, std::int64_t row, std::int64_t index) {
  const std::int64_t rows = spec.transpose ? spec.N : spec.K;
  const std::int64_t along = spec.transpose ? spec.K : spec.N;
  const int bits = spec.format->bits;
  const std::int64_t bit = (expert * rows + row) * along * bits + index * bits;  // rows are whole words
  return {to_size(bit / 32), static_cast<int>(bit % 32), std::min(bits, 32 - static_cast<int>(bit % 32))};
}

}  // namespace

std::string describe(const Spec& spec) {
  std::string weights = spec.format == nullptr
                            ? fmt::format("dense {} b, {}-contiguous", name_of(spec.scale_dtype), spec.transpose ? 'K' : 'N')
                            : fmt::format("{} g{}{}{}", describe(*spec.format), spec.group_size,
                                          spec.transpose ? "" : ", not transposed", spec.global_scale ? ", global scale" : "");
  if (spec.format != nullptr && spec.format->has_biases) {
    weights += fmt::format(", {} scales", name_of(spec.scale_dtype));
  }
  return fmt::format("{}, x {}, precision {}, M {} N {} K {}, pairs per expert [{}]{}, {}, {}, x {}, seed {}", weights,
                     name_of(spec.x_dtype), name_of(spec.precision), spec.M, spec.N, spec.K, fmt::join(spec.pairs, " "),
                     spec.sorted ? " sorted" : "", name_of(spec.index_form), name_of(spec.layout), name_of(spec.values),
                     spec.seed);
}

unsigned code_at(const Spec& spec, const Contents& contents, std::int64_t expert, std::int64_t row, std::int64_t index) {
  const CodePlace place = place_of(spec, expert, row, index);
  std::uint64_t words = contents.w[place.word];
  if (place.in_first_word < spec.format->bits) {
    words |= std::uint64_t{contents.w[place.word + 1]} << 32;
  }
  return static_cast<unsigned>(words >> place.shift) & ((1U << spec.format->bits) - 1U);
}

void set_code(const Spec& spec, Contents& contents, std::int64_t expert, std::int64_t row, std::int64_t index, unsigned code) {
  const CodePlace place = place_of(spec, expert, row, index);
  const std::uint64_t mask = ((std::uint64_t{1} << spec.format->bits) - 1U) << place.shift;
  const std::uint64_t value = std::uint64_t{code} << place.shift;
  std::uint32_t& first = contents.w[place.word];
  first = (first & ~static_cast<std::uint32_t>(mask)) | static_cast<std::uint32_t>(value);
  if (place.in_first_word < spec.format->bits) {
    std::uint32_t& second = contents.w[place.word + 1];
    second = (second & ~static_cast<std::uint32_t>(mask >> 32)) | static_cast<std::uint32_t>(value >> 32);
  }
}

Contents random_contents(const Spec& spec) {
  Random random(spec.seed);
  Contents c;
  make_indices(spec, c, random);
  c.x.resize(to_size(element_count(c.x_leading) * spec.M * spec.K));
  double group_scale = 1;
  for (std::size_t i = 0; i < c.x.size(); ++i) {
    c.x[i] = next_x(spec, i, group_scale, random);
  }
  make_weights(spec, c, random);
  return c;
}

std::vector<std::byte> bytes_of(std::span<const float> values, Dtype dtype) {
  const std::size_t itemsize = size_of(dtype);
  std::vector<std::byte> bytes(values.size() * itemsize);
  for (std::size_t i = 0; i < values.size(); ++i) {
    store_float(bytes.data() + i * itemsize, dtype, values[i]);
  }
  return bytes;
}

Operands lay_out_operands(const Spec& spec, const Contents& c) {
  Random random(spec.seed ^ 0x5bd1e995U);
  // Under wild strides every operand has an arrangement of its own.
  const auto next_layout = [&] {
    return spec.layout == Layout::wild && random.chance(0.5) ? random.one_of(all_layouts) : spec.layout;
  };
  const bool strided = spec.layout != Layout::contiguous;

  Operands operands;
  operands.x =
      lay_out(bytes_of(c.x, spec.x_dtype), with_matrix(c.x_leading, spec.M, spec.K), spec.x_dtype, next_layout(), random);
  GatherQmmOptions& options = operands.options;
  if (!c.lhs_shape.empty()) {
    options.lhs_indices = lay_out_indices(c.lhs_shape, c.lhs, strided, random);
  }
  if (!c.rhs_shape.empty()) {
    options.rhs_indices = lay_out_indices(c.rhs_shape, c.rhs, strided, random);
  }
  options.sorted_indices = spec.sorted && !c.rhs_shape.empty();

  if (spec.format == nullptr) {
    operands.dense = true;
    operands.weights.w = spec.transpose ? lay_out_k_contiguous(spec, c, next_layout(), random)
                                        : lay_out(bytes_of(c.b, spec.scale_dtype), with_matrix(c.w_leading, spec.K, spec.N),
                                                  spec.scale_dtype, next_layout(), random);
    return operands;
  }
  const Format& format = *spec.format;
  const std::int64_t rows = spec.transpose ? spec.N : spec.K;
  const std::int64_t along = spec.transpose ? spec.K : spec.N;
  QuantizedWeights& weights = operands.weights;
  weights.w = lay_out(std::as_bytes(std::span(c.w)), with_matrix(c.w_leading, rows, along * format.bits / 32), Dtype::uint32,
                      next_layout(), random);
  const Shape scale_shape = with_matrix(c.w_leading, rows, along / spec.group_size);
  if (format.scale_encoding == ScaleEncoding::floating) {
    weights.scales = lay_out(bytes_of(c.scales, spec.scale_dtype), scale_shape, spec.scale_dtype, next_layout(), random);
    weights.biases = lay_out(bytes_of(c.biases, spec.scale_dtype), scale_shape, spec.scale_dtype, next_layout(), random);
  } else {
    weights.scales = lay_out(as_bytes(c.scale_bytes), scale_shape, Dtype::uint8, next_layout(), random);
  }
  if (spec.global_scale) {
    const Layout layout = strided ? Layout::odd_address : Layout::contiguous;
    weights.global_scale = lay_out(bytes_of(c.global_scales, Dtype::float32), c.w_leading, Dtype::float32, layout, random);
  }
  weights.mode = format.mode;
  weights.bits = format.bits;
  weights.group_size = spec.group_size;
  weights.transpose = spec.transpose;
  options.precision = spec.precision;
  return operands;
}

}  // namespace gqmm::conformance
