#include "evaluation_errors.hpp"

#include <mlx/allocator.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/primitives.h>
#include <mlx/scheduler.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

namespace gqmm::mlx {
namespace {

constexpr std::size_t remembered = 64;

struct ErrorsOfTasks {
  std::mutex mutex;
  std::deque<std::string> messages;
};

/// The one object of its kind. It is never destroyed, because streams may still evaluate while the process exits.
ErrorsOfTasks& errors_of_tasks() {
  static auto* const errors = new ErrorsOfTasks;
  return *errors;
}

std::atomic<bool> is_unsettled = false;

/// The primitive of an array whose evaluation has failed. Each evaluation throws the error again.
class Failure final : public mx::UnaryPrimitive {
 public:
  Failure(mx::Stream stream, std::string message) : UnaryPrimitive(stream), message_(std::move(message)) {}

  [[nodiscard]] const char* name() const override { return "GqmmFailure"; }
  void eval_cpu(const std::vector<mx::array>&, mx::array& out) override {
    if constexpr (may_throw_before_task) {
      throw std::runtime_error(message_);
    }
    out.set_data(mx::allocator::malloc(out.nbytes()));
    if (out.nbytes() != 0) {
      std::memset(out.data<std::byte>(), 0xFF, out.nbytes());
    }
    mx::cpu::get_command_encoder(stream()).dispatch([message = message_] { throw std::runtime_error(message); });
  }
  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error(message_); }

 private:
  std::string message_;
};

}  // namespace

bool is_known(const mx::array& a) {
  return may_throw_before_task && !a.is_tracer() && a.status() != mx::array::Status::unscheduled && !a.event().valid();
}

void remember_error_of_task(const char* message) {
  is_unsettled = true;
  ErrorsOfTasks& errors = errors_of_tasks();
  const std::lock_guard lock(errors.mutex);
  if (std::find(errors.messages.begin(), errors.messages.end(), message) == errors.messages.end()) {
    errors.messages.emplace_back(message);
  }
  if (errors.messages.size() > remembered) {
    errors.messages.pop_front();
  }
}

bool is_error_of_task(const std::string& message) {
  ErrorsOfTasks& errors = errors_of_tasks();
  const std::lock_guard lock(errors.mutex);
  return std::find(errors.messages.begin(), errors.messages.end(), message) != errors.messages.end();
}

void settle_after_errors(mx::Stream stream) {
  if (!is_unsettled.load(std::memory_order_relaxed) || !is_unsettled.exchange(false)) {
    return;
  }
  mx::synchronize(stream);
  // The tasks of other streams may be among these. A count that is too low is harmless: MLX then limits their number less
  // strictly.
  for (int counted = mx::scheduler::n_active_tasks(); counted > 0; --counted) {
    mx::scheduler::notify_task_completion(stream);
  }
}

void fail_from_now_on(mx::array& a, std::string message) {
  a.detach();
  a.attach_event({});
  a.primitive_ptr() = std::make_shared<Failure>(mx::default_stream(mx::Device::cpu), std::move(message));
  a.set_status(mx::array::Status::unscheduled);
}

}  // namespace gqmm::mlx
