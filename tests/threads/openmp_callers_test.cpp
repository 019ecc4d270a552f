// Tests of callers that run on the threads of an OpenMP runtime.
#include "threads/process_threads.hpp"
#include "threads/team.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <array>
#include <atomic>
#include <iterator>
#include <vector>

namespace gqmm::threads {
namespace {

/// The number of threads that a call gets which asks for four.
int planned() { return TeamCall(4).threads(); }

class OpenMpCallers : public testing::TestWithParam<int> {
 protected:
  OpenMpCallers() : saved_(omp_get_max_active_levels()) { omp_set_max_active_levels(GetParam()); }
  ~OpenMpCallers() override { omp_set_max_active_levels(saved_); }

 private:
  int saved_;
};

TEST_P(OpenMpCallers, HaveOneThreadInsideAParallelRegion) {
  ASSERT_EQ(planned(), 4);
  const int before = process_threads();
  int started = 0;
  std::vector<int> threads(3, 0);
#pragma omp parallel num_threads(3)
  {
    threads[static_cast<std::size_t>(omp_get_thread_num())] = planned();
#pragma omp barrier
#pragma omp master
    started = process_threads() - before;
  }
  EXPECT_EQ(threads, (std::vector<int>{1, 1, 1}));
  EXPECT_LE(started, 2) << "OpenMP's own";
  EXPECT_EQ(planned(), 4) << "outside again";
}

TEST_P(OpenMpCallers, HaveOneThreadWhereOneOfTheRegionCallsAlone) {
  int threads = 0;
#pragma omp parallel num_threads(2)
  {
#pragma omp master
    threads = planned();
  }
  EXPECT_EQ(threads, 1);
}

TEST_P(OpenMpCallers, HaveTheTeamInsideARegionOfOneThread) {
  int threads = 0;
#pragma omp parallel num_threads(1)
  threads = planned();
  EXPECT_EQ(threads, 4);
}

INSTANTIATE_TEST_SUITE_P(WithNestedRegions, OpenMpCallers, testing::Values(1, 4));

}  // namespace
}  // namespace gqmm::threads
