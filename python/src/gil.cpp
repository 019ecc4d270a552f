#include "gil.hpp"

#include <unistd.h>

namespace gqmm::python {
namespace {

/// Takes the GIL. Before Python 3.14 a daemon thread that asks for it while the interpreter ends is ended by an exception of the
/// C library, which no destructor lets pass: the process would abort. So the thread sleeps until the process ends.
void take_gil(PyThreadState* state) {
  try {
    PyEval_RestoreThread(state);
  } catch (...) {
    while (true) {
      pause();
    }
  }
}

bool runs_on_main_thread() {
  const nb::object main_thread = nb::module_::import_("threading").attr("main_thread")();
  return nb::cast<unsigned long>(main_thread.attr("ident")) == PyThread_get_thread_ident();
}

}  // namespace

ReleasedGil::ReleasedGil() : state_(PyEval_SaveThread()), check_([this] { return handler_raised(); }) {}

ReleasedGil::~ReleasedGil() { take_gil(state_); }

/// Lets Python's signal handlers run, which it calls on the main thread alone.
bool ReleasedGil::handler_raised() {
  if (!is_main_thread_) {
    return false;  // other threads need not wait for the GIL
  }
  take_gil(state_);
  bool raised = false;
  try {
    is_main_thread_ = runs_on_main_thread();
    raised = PyErr_CheckSignals() != 0;
  } catch (nb::python_error& error) {
    error.restore();
    raised = true;
  }
  state_ = PyEval_SaveThread();
  return raised;
}

void register_interrupt_translator() {
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const Interrupted& interrupted) {
      if (PyErr_Occurred() == nullptr) {
        PyErr_SetString(PyExc_KeyboardInterrupt, interrupted.what());
      }
    }
  });
}

}  // namespace gqmm::python
