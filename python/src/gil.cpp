#include "gil.hpp"

#include <sys/syscall.h>
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

/// Python runs signal handlers on its main thread, which is the process's first one. Other threads need not wait for the GIL.
bool is_first_thread() { return ::syscall(SYS_gettid) == ::getpid(); }

}  // namespace

ReleasedGil::ReleasedGil()
    : state_(PyEval_SaveThread()), is_main_thread_(is_first_thread()), check_([this] { return handler_raised(); }) {}

ReleasedGil::~ReleasedGil() { take_gil(state_); }

/// Lets Python's signal handlers run, which it calls on the main thread alone.
bool ReleasedGil::handler_raised() {
  if (!is_main_thread_) {
    return false;
  }
  take_gil(state_);
  const bool raised = PyErr_CheckSignals() != 0;
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
