// Loops whose index is a constant in each iteration.
#pragma once

#include <utility>

namespace gqmm::cpu {
namespace {

/// Calls function.operator()<0>() … function.operator()<n − 1>().
template <int n, class Function>
[[gnu::always_inline]] inline void unrolled(Function function) {
  [&]<int... i>(std::integer_sequence<int, i...>)
      __attribute__((always_inline)) { (function.template operator()<i>(), ...); }(std::make_integer_sequence<int, n>{});
}

}  // namespace
}  // namespace gqmm::cpu
