#include "conformance/support/check.hpp"
#include "conformance/support/digests.hpp"
#include "conformance/support/problems.hpp"
#include "conformance/support/random_problem.hpp"
#include "formats/registry.hpp"

#include <fmt/format.h>

#include <span>

namespace gqmm::conformance {

using namespace detail;

namespace {

constexpr Dtype compute_types[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16};
constexpr Precision precisions[] = {Precision::standard, Precision::fast, Precision::float32};
constexpr int problems_of_a_family = 48;

struct Family {
  std::string name;
  const Format* format;
  int group_size;
  Dtype x_dtype;
  bool transpose;
};

std::string name_of_family(const Family& family) {
  const std::string weights = family.format == nullptr ? "dense"
                                                       : fmt::format("{}_{}bit_g{}", gqmm::name_of(family.format->mode),
                                                                     family.format->bits, family.group_size);
  return fmt::format("{}_{}transposed_{}", weights, family.transpose ? "" : "not_", gqmm::name_of(family.x_dtype));
}

std::vector<Family> families() {
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

std::uint64_t digest_of_contents(const Spec& spec, const Contents& contents) {
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
  return hash.value();
}

DigestProblem problem_of(const Family& family, int number) {
  Hash name;
  name.add(std::as_bytes(std::span(family.name)));
  Spec spec;
  spec.seed = name.value() + static_cast<std::uint64_t>(number);
  Random random(spec.seed);
  spec.format = family.format;
  spec.group_size = family.group_size;
  spec.x_dtype = family.x_dtype;
  spec.scale_dtype = random.one_of(compute_types);
  spec.transpose = family.transpose;
  spec.precision = family.format == nullptr ? Precision::standard : precisions[number % 3];
  spec.global_scale = family.format != nullptr && family.format->has_global_scale && random.chance(0.5);
  choose_extents(spec, 4.6, random);
  const bool packed = family.format != nullptr && family.transpose && number % 4 == 3;

  Contents contents = random_contents(spec);
  add_special_values(spec, contents);
  Operands operands = lay_out_operands(spec, contents);
  operands.options.stream.threads = 1;
  return {.description = describe(spec), .operands = digest_of_contents(spec, contents), .result = [operands, packed] {
            Hash hash;
            if (packed) {
              const PackedWeights weights = pack(operands);
              hash.add(call_poisoned(operands, &weights));
            } else {
              hash.add(call_poisoned(operands));
            }
            return hash.value();
          }};
}

}  // namespace

std::vector<DigestCase> product_cases() {
  std::vector<DigestCase> cases;
  for (const Family& family : families()) {
    cases.push_back({.name = family.name, .problems = problems_of_a_family, .problem = [family](int number) {
                       return problem_of(family, number);
                     }});
  }
  return cases;
}

}  // namespace gqmm::conformance
