// Python's global lock, which no operator holds while it computes.
#pragma once

#include <gqmm/interrupt.hpp>

#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace gqmm::python {

/// Gives the GIL back while it lives. Operators that run meanwhile stop if a Python signal handler raises on the main thread, as
/// the one of Ctrl-C does; then Interrupted is thrown, and the exception of the handler is set.
class ReleasedGil {
 public:
  ReleasedGil();
  ~ReleasedGil();
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

 private:
  bool handler_raised();

  PyThreadState* state_;
  bool is_main_thread_;
  InterruptCheck check_;
};

/// Runs `compute` without the GIL.
template <class Compute>
auto without_gil(Compute&& compute) {
  const ReleasedGil released;
  return compute();
}

/// Translates Interrupted to the exception that is set.
void register_interrupt_translator();

}  // namespace gqmm::python
