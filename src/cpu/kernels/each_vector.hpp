// Walks through a row in vectors of 16 elements.
#pragma once

#include "cpu/simd/vocabulary.hpp"

#include <cstdint>

namespace gqmm::cpu {
namespace {

/// Calls function(i, count) for each vector of a row, where count is how many of its elements the row has.
template <class Function>
__attribute__((always_inline)) inline void for_each_vector(std::int64_t n, const Function& function) {
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    function(i, lanes);
  }
  if (i < n) {
    function(i, static_cast<int>(n - i));
  }
}

}  // namespace
}  // namespace gqmm::cpu
