// Lists of numbers that are known when a kernel table is made.
#pragma once

namespace gqmm::cpu {
namespace {

template <int... values>
struct IntList {};
/// IntList<1, 2, …, n>
template <int n, int... rest>
struct UpTo : UpTo<n - 1, n, rest...> {};
template <int... rest>
struct UpTo<0, rest...> {
  using type = IntList<rest...>;
};
template <int... values, class Function>
constexpr void for_each(IntList<values...>, Function function) {
  (function.template operator()<values>(), ...);
}

}  // namespace
}  // namespace gqmm::cpu
