#include "cpu/backend.hpp"

#include "cpu/dispatch.hpp"
#include "cpu/product.hpp"
#include "formats/registry.hpp"
#include "plan/packed.hpp"
#include "threads/limits.hpp"
#include "threads/team.hpp"

#include <gqmm/system.hpp>

#include <algorithm>
#include <array>

namespace gqmm::cpu {
namespace {

// Below so many multiply-adds a second thread costs more than it saves: it takes microseconds to start one that spins, and these
// take a Zen 4 core 13 µs in decode from DRAM (39 G/s, one row of bfloat16) and 5 µs in prefill (100 G/s).
constexpr std::int64_t work_worth_a_thread = std::int64_t{1} << 19;
// Items are runs of strips, for linear prefetching, yet many per thread, for shares even out an item at a time. 8, 24 or 48 made
// no difference beyond that of two runs for one token on two threads.
constexpr std::int64_t items_per_thread = 24;
// Panels of a GEMM item: their outputs are written together, a few lines of a row of the result at a time. 4 in place of 1 gained
// 1 to 3 %, 8 no more.
constexpr std::int64_t panels_per_item = 4;
// Rows that share a packed panel: packing costs as much as about 5 rows of one slice. Of 64 and 128 rows x would stay in L2 from
// panel to panel; they were as fast (Zen 4, K of 2048 and 7168), so the number does not depend on the cache.
constexpr std::int64_t rows_per_item = 256;
// Multiply-adds of an item: 10 ms of a core with VNNI, one thread's pause between two looks whether the call should stop. Only
// shapes with more than a hundred million weights per expert, or K above 20,000, come near.
constexpr std::int64_t most_work_per_item = std::int64_t{1} << 30;
// Weights packed along N are read in runs of k, of which an item should take all outputs.
constexpr std::int64_t strips_per_item_along_n = 48;

Tiling choose_tiling(const Problem& problem, const KernelTable& kernels, const Routing& routing, std::int64_t strips,
                     int threads) {
  const bool integers = has_integer_path(problem);
  const std::int64_t all_strips = static_cast<std::int64_t>(routing.segments.size()) * strips;
  // The most strips of an item that leave enough items for every thread.
  const auto at_most = [&](std::int64_t wanted) {
    return threads == 1 ? wanted : std::clamp<std::int64_t>(all_strips / (threads * items_per_thread), 1, wanted);
  };
  const std::int64_t panel = integers ? kernels.gemm_tile[problem.slices - 1].nv : kernels.float_tile.nv;
  const std::int64_t few = integers ? few_rows : problem.format != nullptr ? kernels.few_float_rows.of(problem.transpose) : 0;
  const std::int64_t wanted_strips = problem.transpose ? panel * panels_per_item : strips_per_item_along_n;
  const std::int64_t strips_many_rows = std::max<std::int64_t>(1, at_most(wanted_strips) / panel) * panel;
  const std::int64_t most_strip_rows = most_work_per_item / (lanes * std::max<std::int64_t>(1, problem.K));
  return {.few_rows = few,
          .strips_few_rows = std::clamp<std::int64_t>(most_strip_rows / std::max<std::int64_t>(1, few), 1, at_most(strips)),
          .strips_many_rows = strips_many_rows,
          .rows_per_item = std::clamp<std::int64_t>(most_strip_rows / strips_many_rows, 1, rows_per_item)};
}

}  // namespace

std::int64_t threads_worth(double multiply_adds) {
  return static_cast<std::int64_t>(std::min(multiply_adds / static_cast<double>(work_worth_a_thread), 1e6)) + 1;
}

namespace {

double multiply_adds(const Problem& problem) {
  return static_cast<double>(problem.rhs.size()) * static_cast<double>(problem.M) * static_cast<double>(problem.N) *
         static_cast<double>(problem.K);
}

}  // namespace

int threads_of(const Problem& problem) {
  threads::check_environment();
  const std::int64_t worth = threads_worth(multiply_adds(problem));
  if (worth == 1) {
    return 1;  // a tiny call asks the system nothing
  }
  const int wanted = problem.threads > 0 ? problem.threads : get_num_threads();
  return static_cast<int>(std::min(std::int64_t{wanted}, worth));
}

void share_out(std::int64_t count, int wanted_threads, const std::function<void(std::int64_t i)>& work) {
  threads::check_environment();
  threads::TeamCall team(wanted_threads);
  threads::Step step(count, team.threads(), [](std::int64_t) { return 1; }, [&work](std::int64_t i, std::int64_t) { work(i); });
  team.run(std::array{&step});
}

void run(const Problem& problem) {
  if (problem.rhs.empty() || problem.M == 0 || problem.N == 0) {
    return;
  }
  const KernelTable& kernels = active_kernels();
  const bool integers = has_integer_path(problem);
  const bool even_odd = integers && kernels.formats[index_of(*problem.format)].even_odd;
  const Weights weights(problem, kernels);
  const std::int64_t experts = problem.packed != nullptr ? problem.packed->experts : problem.w.count();
  const Routing routing = route(problem.rhs, experts, problem.sorted);
  threads::TeamCall team(threads_of(problem), threads_worth(multiply_adds(problem)) > 1);
  const std::vector<Item> items = make_items(routing, problem.M, weights.strips(),
                                             choose_tiling(problem, kernels, routing, weights.strips(), team.threads()));
  Activations activations(problem, kernels, integers, even_odd);
  const Product product(problem, kernels, routing, activations, weights);

  const auto item_count = static_cast<std::int64_t>(items.size());
  team.use_at_most(std::max(item_count, activations.count()));
  const auto item = [&items](std::int64_t i) {
    return i == threads::WorkShares::none ? nullptr : &items[static_cast<std::size_t>(i)];
  };
  threads::Step slicing(
      activations.count(), team.threads(), [](std::int64_t) { return 1; },
      [&activations](std::int64_t row, std::int64_t) { activations.prepare(row); });
  threads::Step multiplying(
      item_count, team.threads(), [&](std::int64_t i) { return cost(*item(i)); },
      [&](std::int64_t i, std::int64_t next) { product.run(*item(i), item(next)); });
  team.run(std::array{&slicing, &multiplying});
}

}  // namespace gqmm::cpu
