// Keeps the errors of evaluations, which could be lost otherwise. MLX raises an error of its own threads once, to the first
// caller that waits. From then on it takes the arrays for evaluated. NumPy hides the error: it asks for an array's buffer, drops
// the exception, and asks again in another way.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>
#include <mlx/version.h>

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Whether a primitive may throw while MLX sends it to a stream. The array then stays unevaluated, and a caller can still wait
/// for the arrays that an asynchronous evaluation computed before it. MLX 0.32.1 would wait for them for ever.
constexpr bool may_throw_before_task = MLX_VERSION_NUMERIC >= 32002;

/// Whether a request for an array's buffer may start an evaluation that fails. MLX turns that error into Python's since 0.32.4.
/// Earlier versions end the process, so the array must be evaluated before MLX gets the request.
constexpr bool may_throw_in_buffer_request = MLX_VERSION_NUMERIC >= 32004;

/// Whether an array has its values already. Call this when the graph is built. During an evaluation it cannot be told. MLX then
/// counts an array as evaluated as soon as its task has been sent to a stream.
bool is_known(const mx::array& a);

/// Calls check() before a task is sent, for values that were known when the graph was built. If it throws, the result stays
/// unevaluated, so each later use of it, or of an array that depends on it, raises the error again.
template <class Check>
void check_known(Check check) {
  try {
    check();
  } catch (const std::invalid_argument& error) {
    throw std::runtime_error(error.what());  // MLX raises an error of a task with this type, too
  }
}

/// Keeps the message of an error that is about to leave a task. Only the latest messages are kept.
void remember_error_of_task(const char* message);
/// Whether this is a message that has been kept.
bool is_error_of_task(const std::string& message);

/// Corrects MLX's count of active tasks after an error. Call this before a graph is built. If the main thread finds an error
/// while it sends a task to a stream, MLX goes on counting that task as active. After ten such tasks MLX would wait for ever.
void settle_after_errors(mx::Stream stream);

/// Wraps a task so that the message of its error is kept.
template <class Task>
auto remembering_errors(Task task) {
  return [task = std::move(task)]() mutable {
    try {
      task();
    } catch (const std::exception& error) {
      remember_error_of_task(error.what());
      throw;
    }
  };
}

/// Makes every evaluation of `a` throw `message` from now on, which is a RuntimeError in Python. `a` must not be part of a
/// transform.
void fail_from_now_on(mx::array& a, std::string message);

}  // namespace gqmm::mlx
