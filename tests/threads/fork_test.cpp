// Tests of a process that forks. Its children compute with a team of their own, whatever the threads of the parent do.
#include "threads/forked_child.hpp"
#include "threads/node_binding.hpp"
#include "threads/node_files.hpp"
#include "threads/process_threads.hpp"
#include "threads/team.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <functional>
#include <iterator>
#include <stop_token>
#include <thread>
#include <vector>

namespace gqmm::threads {
namespace {

constexpr int ok = 0;

/// A product that is worth several threads, whose every element is K.
class ProductOfOnes {
 public:
  bool is_right(int threads) const {
    const array y = gather_mm(array::borrow(values_.data(), {rows, K}, Dtype::float32),
                              array::borrow(values_.data(), {K, N}, Dtype::float32), {.stream = {.threads = threads}});
    std::vector<float> result(static_cast<std::size_t>(rows * N));
    std::memcpy(result.data(), y.bytes(), result.size() * sizeof(float));
    return result == std::vector<float>(result.size(), static_cast<float>(K));
  }

 private:
  static constexpr std::int64_t rows = 64;
  static constexpr std::int64_t N = 256;
  static constexpr std::int64_t K = 256;
  std::vector<float> values_ = std::vector<float>(static_cast<std::size_t>(K * N), 1.0F);
};

TEST(Fork, AChildComputesWithATeamOfItsOwn) {
  const ProductOfOnes product;
  ASSERT_TRUE(product.is_right(3));
  EXPECT_EQ(status_of_child([&] {
              const bool first = product.is_right(3) && product.is_right(1);
              return first && process_threads() == 3 ? ok : 1;
            }),
            ok);
  EXPECT_TRUE(product.is_right(3)) << "the parent's team is as before";
}

TEST(Fork, AChildOfAThreadOnANodeComputesThereWithATeamOfItsOwn) {
  const ProductOfOnes product;
  for (const NodeProcessors& each : two_nodes()) {
    const NodeBinding binding(each.node, each.processors);
    ASSERT_TRUE(product.is_right(3));
    EXPECT_EQ(status_of_child([&] {
                const bool right = product.is_right(3) && process_threads() == 3;
                return right && ProcessorSet::of_thread() == each.processors ? ok : 1;
              }),
              ok);
    EXPECT_TRUE(product.is_right(3)) << "the parent's team is as before";
  }
}

TEST(Fork, AChildOfAChildComputesToo) {
  const ProductOfOnes product;
  EXPECT_EQ(status_of_child([&] {
              return product.is_right(2) && status_of_child([&] { return product.is_right(2) ? ok : 1; }) == ok &&
                             product.is_right(2)
                         ? ok
                         : 1;
            }),
            ok);
}

// The address sanitizer's allocator has locks of its own. A fork while other threads free memory may leave them locked in the
// child, which then waits for ever when it frees memory (google/sanitizers, issue 1814).
#ifdef GQMM_SANITIZED
#define GQMM_SKIP_IF_THE_ALLOCATOR_MAY_STAY_LOCKED() GTEST_SKIP() << "the sanitizer's allocator may stay locked in the child"
#else
#define GQMM_SKIP_IF_THE_ALLOCATOR_MAY_STAY_LOCKED() static_cast<void>(0)
#endif

TEST(Fork, WhileOtherThreadsComputeLeavesTheChildFree) {
  GQMM_SKIP_IF_THE_ALLOCATOR_MAY_STAY_LOCKED();
  const ProductOfOnes product;
  std::atomic<int> wrong{0};
  {
    std::vector<std::jthread> callers;  // they stop and are joined when this block is left, also after a failure
    for (int caller = 0; caller < 3; ++caller) {
      callers.emplace_back([&, caller](const std::stop_token& stop) {
        while (!stop.stop_requested()) {
          wrong += product.is_right(1 + caller) ? 0 : 1;
        }
      });
    }
    for (int child = 0; child < 50; ++child) {
      ASSERT_EQ(status_of_child([&] { return product.is_right(2) && product.is_right(1) ? ok : 1; }), ok) << child;
    }
  }
  EXPECT_EQ(wrong, 0);
}

// The fork happens while a first call is making its global objects: the team, the limits of the machine and blocks of memory.
TEST(Fork, WhileAnotherThreadIsInTheFirstCallLeavesTheChildFree) {
  GQMM_SKIP_IF_THE_ALLOCATOR_MAY_STAY_LOCKED();
  const ProductOfOnes product;
  for (int turn = 0; turn < 30; ++turn) {
    // The process in which the first call happens is itself a child.
    ASSERT_EQ(status_of_child([&] {
                std::atomic<bool> begins{false};
                std::thread first([&] {
                  begins = true;
                  (void)product.is_right(3);
                });
                while (!begins) {
                }
                std::this_thread::sleep_for(std::chrono::microseconds(20 * turn));
                const int status = status_of_child([&] { return product.is_right(3) ? ok : 1; });
                first.join();
                return status;
              }),
              ok)
        << turn;
  }
}

TEST(Fork, FromAThreadThatIsNotTheFirstOneLeavesTheChildFree) {
  const ProductOfOnes product;
  ASSERT_TRUE(product.is_right(2));
  int status = -1;
  std::thread([&] { status = status_of_child([&] { return product.is_right(2) ? ok : 1; }); }).join();
  EXPECT_EQ(status, ok);
}

// An InterruptCheck may run signal handlers, and these may fork.
TEST(Fork, WithinACallGivesTheChildAnErrorAndTheParentItsResult) {
  pid_t child = -1;
  bool forked = false;
  {
    const InterruptCheck check([&] {
      if (!forked) {
        forked = true;
        child = fork();
        if (child == 0) {
          alarm(60);
        }
      }
      return false;
    });
    std::atomic<int> items{0};
    try {
      TeamCall call(2);
      Phase phase(
          400, call.threads(), [](std::int64_t) { return 1; },
          [&](std::int64_t, std::int64_t) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            ++items;
          });
      call.run(std::array{&phase});
      if (child == 0) {
        _exit(1);  // a result in the child would not be whole
      }
      EXPECT_EQ(items, 400);
    } catch (const std::runtime_error& error) {
      if (child == 0) {
        const ProductOfOnes product;  // the child's next call works
        _exit(std::string(error.what()).find("forked") != std::string::npos && product.is_right(2) ? ok : 2);
      }
      ADD_FAILURE() << error.what();
    }
  }
  ASSERT_TRUE(forked) << "the call was too short for a check";
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), ok);
}

}  // namespace
}  // namespace gqmm::threads
