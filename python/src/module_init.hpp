// Rules for the import of an extension module: only the main interpreter can import it, and any number of times.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>  // IWYU pragma: keep: a cast of std::string compiles without it, and fails when it runs

#include <stdexcept>
#include <string>
#include <utility>

namespace gqmm::python {

/// Whether this is the main interpreter. If not, ImportError has been raised. nanobind's state belongs to the interpreter that
/// imported last. So an import in a second interpreter would make the objects of the first one unusable.
inline bool is_main_interpreter(const char* module) {
  if (PyInterpreterState_Get() == PyInterpreterState_Main()) {
    return true;
  }
  PyErr_Format(PyExc_ImportError,
               "%s works in the main interpreter alone, and this is a sub-interpreter; use threads or processes instead", module);
  return false;
}

/// Calls `define(module)` at the first import of the module `name`. Python imports a module again if its entry in sys.modules was
/// deleted. The new module then gets the names of the first one: the same classes, functions and state. Throws
/// std::runtime_error, which becomes ImportError, if the first one came from another file.
template <class Define>
void define_once(nanobind::module_& module, const char* name, Define&& define) {
  namespace nb = nanobind;
  const auto of_interpreter = nb::borrow<nb::dict>(PyInterpreterState_GetDict(PyInterpreterState_Get()));
  const nb::str key(name);
  const auto names = nb::borrow<nb::dict>(module.attr("__dict__"));
  const auto file_of = [](const nb::dict& dict) {
    return dict.contains("__file__") ? nb::cast<std::string>(nb::str(nb::handle(dict["__file__"]))) : std::string("the program");
  };
  if (!of_interpreter.contains(key)) {
    std::forward<Define>(define)(module);
    of_interpreter[key] = names;
    return;
  }
  const auto first = nb::borrow<nb::dict>(of_interpreter[key]);
  if (file_of(first) != file_of(names)) {
    throw std::runtime_error(std::string(name) + " has been loaded from " + file_of(first) +
                             ", and one process can hold one copy of it; start Python again to load " + file_of(names));
  }
  for (const auto [attribute, value] : first) {
    if (!names.contains(attribute)) {
      names[attribute] = value;
    }
  }
}

}  // namespace gqmm::python
