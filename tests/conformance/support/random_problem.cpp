#include "conformance/support/random_problem.hpp"

#include "formats/registry.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr Dtype compute_types[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16};
constexpr Precision precisions[] = {Precision::standard, Precision::fast, Precision::float32};

std::size_t to_size(std::int64_t count) { return static_cast<std::size_t>(count); }

}  // namespace

Spec random_spec(std::uint64_t seed) {
  Random random(seed);
  Spec spec;
  spec.seed = seed;
  spec.x_dtype = random.one_of(compute_types);
  spec.scale_dtype = random.one_of(compute_types);
  spec.transpose = random.chance(0.8);
  if (!random.chance(0.08)) {
    spec.format = &formats()[to_size(random.integer(0, static_cast<std::int64_t>(formats().size()) - 1))];
    spec.group_size =
        spec.format->group_sizes[to_size(random.integer(0, static_cast<std::int64_t>(spec.format->group_sizes.size()) - 1))];
    spec.global_scale = spec.format->has_global_scale && random.chance(0.5);
    spec.precision = random.one_of(precisions);
  }
  choose_extents(spec, 7.65, random);
  return spec;
}

void choose_extents(Spec& spec, double log2_rows, Random& random) {
  const std::int64_t group = std::max(1, spec.group_size);
  const std::int64_t free_extent = random.chance(0.5) ? random.integer(1, 40) : random.integer(1, 150);
  const std::int64_t packed_extent =
      spec.format == nullptr ? random.integer(1, 150) : group * random.integer(1, random.chance(0.7) ? 3 : 9);
  spec.N = spec.transpose ? free_extent : packed_extent;
  spec.K = spec.transpose ? packed_extent : free_extent;

  const auto rows = static_cast<std::int64_t>(std::exp2(random.uniform(0, log2_rows)));
  spec.M = random.chance(0.7) ? 1 : random.integer(1, rows);
  spec.pairs.assign(to_size(random.integer(1, 6)), 0);
  for (std::int64_t& count : spec.pairs) {
    count = random.chance(0.5) ? random.integer(0, 4) : 0;
  }
  spec.pairs[to_size(random.integer(0, spec.experts() - 1))] = std::max<std::int64_t>(1, rows / spec.M);
  spec.values = random.one_of(all_values);
}

void add_special_values(const Spec& spec, Contents& contents) {
  Random random(spec.seed ^ 0x1234567U);
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float specials[] = {30000.0F, -3e4F,     1e30F,    infinity, -infinity, std::numeric_limits<float>::quiet_NaN(),
                                1e-40F,   -1.5e-45F, 65504.0F, 1e-7F,    100.0F,    -1000.0F};
  const auto sprinkle = [&](std::vector<float>& values, std::int64_t most) {
    for (std::int64_t left = values.empty() ? 0 : random.integer(1, most); left > 0; --left) {
      values[to_size(random.integer(0, static_cast<std::int64_t>(values.size()) - 1))] = random.one_of(specials);
    }
  };
  if (random.chance(0.35)) {
    sprinkle(contents.x, 8);
  }
  if (random.chance(0.1)) {
    sprinkle(contents.scales, 2);
  }
  if (random.chance(0.1)) {
    sprinkle(contents.biases, 2);
  }
  if (random.chance(0.1)) {
    for (std::uint8_t& byte : contents.scale_bytes) {
      byte = random.chance(0.05) ? static_cast<std::uint8_t>(random.bits()) : byte;
    }
  }
}

}  // namespace gqmm::conformance
