// Callers on several threads, callers inside parallel regions of their own, and how many threads a call takes. The thread
// sanitizer runs this suite.
#include "conformance/support/check.hpp"
#include "conformance/support/problems.hpp"
#include "cpu/backend.hpp"
#include "formats/registry.hpp"
#include "plan/packed.hpp"
#include "threads/process_threads.hpp"

#include <gqmm/gqmm.hpp>

#include <sched.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

Spec spec_number(std::uint64_t number) {
  Spec spec;
  spec.format = &formats()[number % formats().size()];
  spec.group_size = spec.format->default_group_size;
  spec.x_dtype = number % 2 == 0 ? Dtype::float32 : Dtype::bfloat16;
  spec.transpose = number % 5 != 4;
  spec.N = spec.transpose ? 150 : 2 * spec.group_size;
  spec.K = 4 * std::max(32, spec.group_size);
  spec.pairs = {1, 9, 0, 40, 3, 2};
  spec.seed = 800000 + number;
  return spec;
}

struct Expected {
  Operands operands;
  array y;
};

std::vector<Expected> problems_with_results(std::uint64_t count) {
  std::vector<Expected> all;
  for (std::uint64_t i = 0; i < count; ++i) {
    Operands operands = make_operands(spec_number(i));
    operands.options.stream.threads = 1;
    array y = call(operands);
    all.push_back({std::move(operands), std::move(y)});
  }
  return all;
}

TEST(Threads, CallersOnSeveralThreadsAtOnceGetTheirOwnResults) {
  const std::vector<Expected> problems = problems_with_results(2 * formats().size());
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (std::size_t caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (std::size_t i = 0; i < 2 * problems.size(); ++i) {
        const Expected& problem = problems[(i * (caller + 1) + caller) % problems.size()];
        Operands operands = problem.operands;
        operands.options.stream.threads = static_cast<int>(1 + (i + caller) % 3);
        wrong += same_bits(problem.y, call(operands)) ? 0 : 1;
      }
    });
  }
  for (std::thread& caller : callers) {
    caller.join();
  }
  EXPECT_EQ(wrong, 0);
}

TEST(Threads, CallersShareOperandsAndPackedWeights) {
  const std::vector<Expected> problems = problems_with_results(formats().size());
  for (const Expected& problem : problems) {
    const PackedWeights packed = pack(problem.operands);
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 3; ++caller) {
      callers.emplace_back([&] {
        GatherQmmOptions options = problem.operands.options;
        options.stream.threads = 2;
        wrong += same_bits(problem.y, gather_qmm(problem.operands.x, packed, options)) ? 0 : 1;
      });
    }
    for (std::thread& caller : callers) {
      caller.join();
    }
    EXPECT_EQ(wrong, 0);
  }
}

TEST(Threads, PackingGivesTheSameBytesOnAnyNumberOfThreads) {
  Spec spec = spec_number(3);
  spec.N = 1000;  // the last strip of each expert is padded
  spec.K = 1024;
  Operands operands = make_operands(spec);
  operands.options.stream.threads = 1;
  const PackedWeights alone = pack(operands);
  ASSERT_GE(alone.nbytes(), std::size_t{1} << 20) << "too little to be worth several threads";
  for (const int threads : {2, 3, 8}) {
    operands.options.stream.threads = threads;
    const PackedWeights packed = pack(operands);
    EXPECT_TRUE(same_bits(packed.data().codes, alone.data().codes)) << threads;
    EXPECT_TRUE(same_bits(packed.data().scales, alone.data().scales)) << threads;
    EXPECT_TRUE(same_bits(packed.data().biases, alone.data().biases)) << threads;
  }
}

/// Arguments that every operator takes: matrices (3, 64, 128) to quantize, dense ones (3, 128, 64), and rows (3, 5, 128).
struct SharedArguments {
  std::vector<float> values = std::vector<float>(std::size_t{3} * 128 * 64);
  array matrices;
  array dense;
  array x;

  SharedArguments() {
    std::iota(values.begin(), values.end(), -9000.0F);
    matrices = array::borrow(values.data(), {3, 64, 128}, Dtype::float32);
    dense = array::borrow(values.data(), {3, 128, 64}, Dtype::float32);
    x = array::borrow(values.data(), {3, 5, 128}, Dtype::float32);
  }
};

/// The bytes of all that the public functions make of the arguments.
std::vector<std::string> results_of_every_function(const SharedArguments& shared, const std::filesystem::path& file) {
  std::vector<std::string> results;
  const auto add = [&](const array& values) {
    EXPECT_TRUE(values.is_row_major());
    results.emplace_back(reinterpret_cast<const char*>(values.bytes()), values.nbytes());
  };
  const QuantizedWeights weights = quantize(shared.matrices);
  add(weights.w);
  add(weights.scales);
  add(dequantize(weights));
  const PackedWeights packed = pack(weights);
  add(unpack(packed).w);
  packed.save(file);
  add(unpack(PackedWeights::load(file)).w);
  add(gather_qmm(shared.x, weights));
  const array y = gather_qmm(shared.x, packed);
  add(y);
  add(quantized_matmul(shared.x, weights));
  add(gather_mm(shared.x, shared.dense));
  add(*gather_qmm_vjp(y, shared.x, weights).x);
  add(*quantized_matmul_vjp(y, shared.x, packed, {.wrt = {.x = false, .scales = true}}).scales);
  add(*gather_mm_vjp(y, shared.x, shared.dense).b);
  const array h = activate(y, y, SwiGLU{});
  add(h);
  const std::vector<float> router(15, 0.25F);
  add(moe_combine(h, array::borrow(router.data(), {3, 5}, Dtype::float32)));
  results.push_back(explain(shared.x, packed, {.stream = {.threads = 1}}));
  EXPECT_EQ(infer_gather_qmm(shared.x, packed).shape, y.shape());
  return results;
}

TEST(Threads, EveryFunctionMayBeCalledByManyThreadsWithSharedArguments) {
  const SharedArguments shared;
  const std::filesystem::path folder = testing::TempDir() + "gqmm_every_function_" + std::to_string(getpid());
  std::filesystem::create_directory(folder);
  const std::vector<std::string> expected = results_of_every_function(shared, folder / "alone");
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back(
        [&, caller] { wrong += results_of_every_function(shared, folder / std::to_string(caller)) == expected ? 0 : 1; });
  }
  for (std::thread& caller : callers) {
    caller.join();
  }
  EXPECT_EQ(wrong, 0);
  std::filesystem::remove_all(folder);
}

// The first call of a process may come from several threads: nothing in it is initialised twice.
TEST(Threads, QuestionsAboutTheSystemMayBeAskedFromAnyThread) {
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  const std::string expected(active_instruction_set());
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      wrong += active_instruction_set() == expected ? 0 : 1;
      wrong += available_threads() >= 1 ? 0 : 1;
      wrong += instruction_sets().empty() ? 1 : 0;
    });
  }
  for (std::thread& caller : callers) {
    caller.join();
  }
  EXPECT_EQ(wrong, 0);
}

// The work of a call spreads over as many threads as its stream says, not one more.
TEST(Threads, ACallTakesAsManyThreadsAsItsStreamSays) {
  Operands operands = make_operands(spec_number(2));
  operands.options.stream.threads = 1;
  std::optional<array> y;
  const int before = threads::process_threads();
  y = call(operands);
  EXPECT_EQ(threads::process_threads(), before);
  operands.options.stream.threads = 3;
  EXPECT_TRUE(same_bits(*y, call(operands)));
  EXPECT_LE(threads::process_threads(), std::max(before, 3));
}

TEST(Threads, AvailableThreadsAreWithinTheAffinityMask) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  ASSERT_EQ(sched_getaffinity(0, sizeof mask, &mask), 0);
  EXPECT_GE(available_threads(), 1);
  EXPECT_LE(available_threads(), CPU_COUNT(&mask));
}

TEST(Threads, ErrorsAreThrownInTheCallersThread) {
  const Operands operands = make_operands(spec_number(1));
  Operands wrong = operands;
  Random random(0);
  const std::int64_t bad_index = 1'000'000;
  wrong.options.rhs_indices = lay_out(std::as_bytes(std::span(&bad_index, 1)), {1}, Dtype::int64, Layout::contiguous, random);
  std::atomic<int> caught{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        try {
          (void)call(wrong);
        } catch (const std::invalid_argument&) {
          ++caught;
        }
        (void)call(operands);  // and the next call works
      }
    });
  }
  for (std::thread& caller : callers) {
    caller.join();
  }
  EXPECT_EQ(caught, 60);
}

}  // namespace
}  // namespace gqmm::conformance
