#include "conformance/support/digests.hpp"

#include "conformance/support/check.hpp"
#include "conformance/support/random_problem.hpp"
#include "formats/registry.hpp"

#include <fmt/format.h>

#include <span>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr Dtype compute_types[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16};
constexpr Precision precisions[] = {Precision::standard, Precision::fast, Precision::float32};

// FNV-1a.
class Hash {
 public:
  void add(std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) {
      value_ = (value_ ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3U;
    }
  }
  template <class T>
  void add(const std::vector<T>& values) {
    add(std::as_bytes(std::span(values)));
  }
  [[nodiscard]] std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325U;
};

std::string name_of_family(const Family& family) {
  const std::string weights = family.format == nullptr ? "dense"
                                                       : fmt::format("{}_{}bit_g{}", gqmm::name_of(family.format->mode),
                                                                     family.format->bits, family.group_size);
  return fmt::format("{}_{}transposed_{}", weights, family.transpose ? "" : "not_", gqmm::name_of(family.x_dtype));
}

}  // namespace

std::vector<Family> digest_families() {
  std::vector<Family> families;
  const auto add = [&](const Format* format, int group_size) {
    for (const bool transpose : {true, false}) {
      for (const Dtype x_dtype : compute_types) {
        families.push_back({{}, format, group_size, x_dtype, transpose});
        families.back().name = name_of_family(families.back());
      }
    }
  };
  for (const Format& format : formats()) {
    for (const int group_size : format.group_sizes) {
      add(&format, group_size);
    }
  }
  add(nullptr, 0);
  return families;
}

DigestProblem::DigestProblem(const Family& family, int problem) {
  Hash name;
  name.add(std::as_bytes(std::span(family.name)));
  spec.seed = name.value() + static_cast<std::uint64_t>(problem);
  Random random(spec.seed);
  spec.format = family.format;
  spec.group_size = family.group_size;
  spec.x_dtype = family.x_dtype;
  spec.scale_dtype = random.one_of(compute_types);
  spec.transpose = family.transpose;
  spec.precision = family.format == nullptr ? Precision::standard : precisions[problem % 3];
  spec.global_scale = family.format != nullptr && family.format->has_global_scale && random.chance(0.5);
  choose_extents(spec, 4.6, random);
  packed = family.format != nullptr && family.transpose && problem % 4 == 3;

  Contents contents = random_contents(spec);
  add_special_values(spec, contents);
  Hash hash;
  hash.add(bytes_of(contents.x, spec.x_dtype));
  hash.add(contents.w);
  hash.add(bytes_of(contents.b, spec.scale_dtype));
  hash.add(bytes_of(contents.scales, spec.scale_dtype));
  hash.add(bytes_of(contents.biases, spec.scale_dtype));
  hash.add(contents.scale_bytes);
  hash.add(contents.global_scales);
  hash.add(contents.lhs);
  hash.add(contents.rhs);
  operands_digest = hash.value();
  operands = lay_out_operands(spec, contents);
  operands.options.stream.threads = 1;
}

Digest DigestProblem::digest() const {
  array y;
  if (packed) {
    const PackedWeights weights = pack(operands);
    y = call_poisoned(operands, &weights);
  } else {
    y = call_poisoned(operands);
  }
  Hash hash;
  hash.add(std::span(y.bytes(), y.nbytes()));
  return {operands_digest, hash.value()};
}

}  // namespace gqmm::conformance
