#include "gil.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <iterator>
#include <stdexcept>
#include <string_view>

namespace gqmm::python {
namespace {

/// Takes the GIL. While the interpreter ends, Python before 3.14 ends a daemon thread that asks for the GIL. It does so by an
/// exception of the C library. A destructor lets no exception pass, so the process would abort. Therefore the thread sleeps until
/// the process ends.
void take_gil(PyThreadState* state) {
  try {
    PyEval_RestoreThread(state);
  } catch (...) {
    while (true) {
      pause();
    }
  }
}

/// Whether this is the process's first thread, which is Python's main thread. Python runs signal handlers on that thread alone,
/// so other threads need not take the GIL for them.
bool is_first_thread() { return ::syscall(SYS_gettid) == ::getpid(); }

}  // namespace

ReleasedGil::ReleasedGil()
    : state_(PyEval_SaveThread()), is_main_thread_(is_first_thread()), check_([this] { return handler_raised(); }) {}

ReleasedGil::~ReleasedGil() { take_gil(state_); }

/// Runs Python's pending signal handlers, on the main thread alone. Returns true if one of them raised an exception.
bool ReleasedGil::handler_raised() {
  if (!is_main_thread_) {
    return false;
  }
  take_gil(state_);
  const bool raised = PyErr_CheckSignals() != 0;
  state_ = PyEval_SaveThread();
  return raised;
}

void register_error_translator() {
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const Interrupted& interrupted) {
      if (PyErr_Occurred() == nullptr) {
        PyErr_SetString(PyExc_KeyboardInterrupt, interrupted.what());
      }
    } catch (const std::invalid_argument& error) {
      if (PyObject* const text =
              PyUnicode_DecodeUTF8(error.what(), std::ssize(std::string_view(error.what())), "backslashreplace")) {
        PyErr_SetObject(PyExc_ValueError, text);
        Py_DECREF(text);
      }
    }
  });
}

}  // namespace gqmm::python
