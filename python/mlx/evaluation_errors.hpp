// Errors of evaluations that must not be lost. MLX raises an error of its own threads once, to whoever waits, and takes the
// arrays for evaluated from then on. NumPy ignores it: it asks for an array's buffer, drops the exception and asks again in
// another way.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>
#include <mlx/version.h>

#include <exception>
#include <string>
#include <utility>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// Whether MLX copes with a primitive that throws where it is sent to a stream: the array stays unevaluated, and what came before
/// it in an asynchronous evaluation can still be waited for. MLX 0.32.1 would wait for that for ever.
constexpr bool may_throw_before_task = MLX_VERSION_NUMERIC >= 32002;

/// Keeps the message of an error that is about to leave a task; the last few are known by is_error_of_task.
void remember_error_of_task(const char* message);
bool is_error_of_task(const std::string& message);

/// Call this before a graph is built. After an error it corrects MLX's count of tasks that are under way: a task that the main
/// thread was about to send to a stream when it found the error stays counted, and after ten of them MLX waits for ever.
void settle_after_errors(mx::Stream stream);

/// The task, with its errors remembered.
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

/// Makes every evaluation of `a` raise `message` from now on, as a RuntimeError in Python. It must not be part of a transform.
void fail_from_now_on(mx::array& a, std::string message);

}  // namespace gqmm::mlx
