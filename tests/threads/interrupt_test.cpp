// Tests of long calls that their caller stops.
#include "arrays/contiguous.hpp"
#include "threads/team.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

namespace gqmm::threads {

using namespace detail;

namespace {

using std::chrono::milliseconds;

/// A call that takes ten seconds on `threads` threads. The caller's thread asks its check.
void run_long_call(int threads, std::atomic<int>& running) {
  TeamCall call(threads);
  Phase phase(
      10'000, call.threads(), [](std::int64_t) { return 1; },
      [&](std::int64_t, std::int64_t) {
        ++running;
        std::this_thread::sleep_for(milliseconds(1));
        --running;
      });
  call.run(std::array{&phase});
}

TEST(Interrupt, StopsACallOnAnyNumberOfThreadsAndLeavesNothingRunning) {
  for (const int threads : {1, 2, 4}) {
    std::atomic<int> running{0};
    int asked = 0;
    const InterruptCheck check([&] { return ++asked == 3; });
    EXPECT_THROW(run_long_call(threads, running), Interrupted);
    EXPECT_EQ(asked, 3);
    EXPECT_EQ(running, 0);
  }
  // The team is usable afterwards.
  TeamCall call(3);
  EXPECT_EQ(call.threads(), 3);
}

TEST(Interrupt, PassesOnWhatTheCheckThrows) {
  for (const int threads : {1, 3}) {
    std::atomic<int> running{0};
    const InterruptCheck check([]() -> bool { throw std::logic_error("of the check"); });
    EXPECT_THROW(run_long_call(threads, running), std::logic_error);
    EXPECT_EQ(running, 0);
  }
}

TEST(Interrupt, IsAskedForOnTheThreadOfTheCheckAlone) {
  const std::thread::id own = std::this_thread::get_id();
  std::atomic<int> elsewhere{0};
  std::atomic<int> asked{0};
  const InterruptCheck check([&] {
    elsewhere += std::this_thread::get_id() == own ? 0 : 1;
    return ++asked == 2;
  });
  std::thread other([&] {
    TeamCall call(1);
    Phase phase(
        150, 1, [](std::int64_t) { return 1; }, [](std::int64_t, std::int64_t) { std::this_thread::sleep_for(milliseconds(1)); });
    call.run(std::array{&phase});  // has no check
  });
  other.join();
  EXPECT_EQ(asked, 0);
  std::atomic<int> running{0};
  EXPECT_THROW(run_long_call(3, running), Interrupted);
  EXPECT_EQ(elsewhere, 0);
}

TEST(Interrupt, OfAnInnerCheckReplacesTheOuterOneUntilItEnds) {
  std::atomic<int> running{0};
  bool outer_asked = false;
  const InterruptCheck outer([&] { return outer_asked = true; });
  {
    const InterruptCheck inner([] { return true; });
    EXPECT_THROW(run_long_call(2, running), Interrupted);
    EXPECT_FALSE(outer_asked);
  }
  EXPECT_THROW(run_long_call(2, running), Interrupted);
  EXPECT_TRUE(outer_asked);
}

// A single row, or a single matrix to be copied, may take seconds. Each of these takes long enough for a second question.
TEST(Interrupt, IsAskedForWithinARowAndWithinACopy) {
  constexpr std::int64_t K = std::int64_t{1} << 25;
  const std::vector<float> zeros(static_cast<std::size_t>(K));
  const array row = array::borrow(zeros.data(), {1, K}, Dtype::float32);
  const array codes = array::borrow(zeros.data(), {1, K / 8}, Dtype::uint32);
  const array scales = array::borrow(zeros.data(), {1, K / 64}, Dtype::float32);
  const InterruptCheck check([] { return true; });
  EXPECT_THROW((void)quantize(row), Interrupted);
  EXPECT_THROW((void)dequantize({.w = codes, .scales = scales, .biases = scales}), Interrupted);
  const array transposed = array::borrow(zeros.data(), {8192, 4096}, Dtype::float32, {4, 4 * 8192});
  EXPECT_THROW((void)copy_row_major(transposed), Interrupted);
}

// All weights are 1, so that every result is a known sum.
struct LargeProduct {
  static constexpr std::int64_t rows = 64;
  static constexpr std::int64_t N = 1024;
  static constexpr std::int64_t K = 1024;
  std::vector<float> values = std::vector<float>(static_cast<std::size_t>(N * K), 1.0F);

  [[nodiscard]] array run(int threads) const {
    return gather_mm(array::borrow(values.data(), {rows, K}, Dtype::float32),
                     array::borrow(values.data(), {K, N}, Dtype::float32), {.stream = {.threads = threads}});
  }
  static bool is_right(const array& y) {
    std::vector<float> result(static_cast<std::size_t>(rows * N));
    std::memcpy(result.data(), y.bytes(), result.size() * sizeof(float));
    return result == std::vector<float>(result.size(), static_cast<float>(K));
  }
};

// The memory in which a call keeps its rows of x belongs to its thread. A second call must not use it.
TEST(Interrupt, AllowsTheCheckToCallOperatorsItself) {
  set_instruction_set("scalar");  // so that a call is long enough to be asked
  const LargeProduct product;
  const std::vector<float> other(64 * 64, 2.0F);
  const array a = array::borrow(other.data(), {64, 64}, Dtype::float32);
  for (const int threads : {1, 2}) {
    int asked = 0;
    const InterruptCheck check([&] {
      ++asked;
      const array inner = gather_mm(a, a, {.stream = {.threads = threads}});
      float first = 0;
      std::memcpy(&first, inner.bytes(), sizeof first);
      EXPECT_EQ(first, 256.0F);
      return false;
    });
    EXPECT_TRUE(LargeProduct::is_right(product.run(threads)));
    EXPECT_GT(asked, 0) << "the call was too short";
  }
  set_instruction_set(instruction_sets().back().supported ? instruction_sets().back().name : "scalar");
}

}  // namespace
}  // namespace gqmm::threads
