// What the tests of layers between products share: random operands, their elements, roundings, and settings to compare bits
// under.
#pragma once

#include "conformance/support/attention_operands.hpp"
#include "conformance/support/check.hpp"
#include "conformance/support/layout.hpp"
#include "conformance/support/random.hpp"
#include "formats/float_types.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace gqmm::conformance {

/// The unit roundoff of float32.
inline constexpr double u = 0x1p-24;

inline double rounding_of(Dtype dtype) { return dtype == Dtype::bfloat16 ? 0x1p-8 : dtype == Dtype::float16 ? 0x1p-11 : u; }
inline double smallest_of(Dtype dtype) {
  return dtype == Dtype::bfloat16 ? 0x1p-133 : dtype == Dtype::float16 ? 0x1p-24 : 0x1p-149;
}

/// Normal numbers around `center`, in any arrangement of memory. Deviation and center are in units of a random power of two.
inline array random_array(const Shape& shape, Dtype dtype, Random& random, double center = 0) {
  array values = array::empty(shape, dtype);
  const double size = std::exp2(random.uniform(-6, 6));
  for (std::int64_t i = 0; i < values.size(); ++i) {
    detail::store_float(values.mutable_bytes() + i * values.itemsize(), dtype,
                        static_cast<float>(size * (center + random.normal())));
  }
  return lay_out(std::span(values.bytes(), values.nbytes()), shape, dtype, random.one_of(all_layouts), random);
}

inline double element_at(const array& a, const std::vector<std::int64_t>& at) {
  std::int64_t offset = 0;
  for (std::size_t d = 0; d < at.size(); ++d) {
    offset += at[d] * a.strides()[d];
  }
  return detail::load_float(a.bytes() + offset, a.dtype());
}
inline double element(const array& row_major, std::int64_t i) {
  return detail::load_float(row_major.bytes() + i * row_major.itemsize(), row_major.dtype());
}

/// Calls function with every instruction set of this machine and some numbers of threads.
inline void with_all_sets_and_threads(const std::function<void(Stream)>& function) {
  const RestoreInstructionSet restore;
  for (const std::string& name : supported_instruction_sets()) {
    SCOPED_TRACE(name);
    set_instruction_set(name);
    for (const int threads : {1, 2, 7}) {
      SCOPED_TRACE(threads);
      function({.threads = threads});
    }
  }
}

}  // namespace gqmm::conformance
