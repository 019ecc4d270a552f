// Operators release Python's global interpreter lock (the GIL) while they compute.
#pragma once

#include <gqmm/interrupt.hpp>

#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace gqmm::python {

/// Releases the GIL in its constructor and takes it again in its destructor. Operators that run between the two stop if a Python
/// signal handler raises an exception, as the handler of Ctrl-C does. They then throw Interrupted, and the exception of the
/// handler is set.
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

/// Runs `compute` without the GIL, and returns its result.
template <class Compute>
auto without_gil(Compute&& compute) {
  const ReleasedGil released;
  return compute();
}

/// Translates Interrupted to the exception that is set, and std::invalid_argument to ValueError. The text of an invalid argument
/// may quote an environment variable, which need not be UTF-8; other bytes are escaped.
void register_error_translator();

}  // namespace gqmm::python
