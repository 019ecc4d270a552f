// How functions of the compiled module are defined.
#pragma once

#include <nanobind/nanobind.h>

#include <type_traits>

namespace gqmm::python {

namespace nb = nanobind;

/// Any argument may be None: the parsers judge it, and their messages name the operator and the argument.
template <class Result, class... Args>
void define(nb::module_& m, const char* name, Result (*function)(Args...), const char* signature) {
  [[maybe_unused]] const auto may_be_none = [](auto) { return nb::arg().none(); };
  m.def(name, function, nb::sig(signature), may_be_none(std::type_identity<Args>{})...);
}

}  // namespace gqmm::python
