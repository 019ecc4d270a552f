#include "exchange.hpp"

#include "composed.hpp"

#include <mlx/backend/cpu/encoder.h>
#include <mlx/utils.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace gqmm::mlx {
namespace {

using Arrays = std::vector<mx::array>;
using Clock = std::chrono::steady_clock;

enum class Mark : std::uint8_t { begins, ended };

struct Counters {
  std::atomic<std::int64_t> begun = 0;
  std::atomic<std::int64_t> ended = 0;
  std::atomic<Clock::rep> last = Clock::now().time_since_epoch().count();

  void count(Mark mark) {
    last = Clock::now().time_since_epoch().count();
    ++(mark == Mark::begins ? begun : ended);
  }
};

/// The one object of its kind. It is never destroyed, because streams may still evaluate while the process exits.
Counters& counters() {
  static auto* const counters = new Counters;
  return *counters;
}

class ExchangeMark final : public Composed {
 public:
  ExchangeMark(mx::Stream stream, Mark mark) : Composed(stream), mark_(mark) {}

  [[nodiscard]] const char* name() const override { return "GqmmExchangeMark"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    return mark_ == static_cast<const ExchangeMark&>(other).mark_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    outputs.front().copy_shared_buffer(inputs.front());
    mx::cpu::get_command_encoder(stream()).dispatch([mark = mark_] { counters().count(mark); });
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    return {{marked(inputs.front(), mark_)}, axes};
  }

  static mx::array marked(const mx::array& a, Mark mark) {
    return {a.shape(), a.dtype(), std::make_shared<ExchangeMark>(mx::to_stream({}, mx::Device::cpu), mark), {a}};
  }

 protected:
  Arrays composed(const Arrays& inputs) override { return inputs; }

 private:
  Mark mark_;
};

}  // namespace

mx::array exchange_begins(const mx::array& a) { return ExchangeMark::marked(a, Mark::begins); }
mx::array exchange_ended(const mx::array& a) { return ExchangeMark::marked(a, Mark::ended); }

Exchanges exchanges() {
  const Counters& now = counters();
  const Clock::time_point last{Clock::duration{now.last.load()}};
  return {
      .begun = now.begun, .ended = now.ended, .seconds_since_last = std::chrono::duration<double>(Clock::now() - last).count()};
}

}  // namespace gqmm::mlx
