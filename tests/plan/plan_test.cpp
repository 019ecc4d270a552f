#include "plan/plan.hpp"

#include "conformance/support/random.hpp"
#include "formats/registry.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

namespace gqmm {

using namespace detail;

namespace {

using conformance::Random;

constexpr KernelLimits limits = {.isa = "imagined",
                                 .gemv_rows = 4,
                                 .gemm_tile = {.mr = 5, .nv = 3},
                                 .float_tile = {.mr = 6, .nv = 2},
                                 .float_gemv_rows = 16,
                                 .float_gemv_crossover = {.along_k = 12, .along_n = 3},
                                 .panel_bytes_per_k = 8,
                                 .panel_bytes = 12 * 1024};

/// A problem without data. Plans read none.
Problem problem_of(const WeightMatrices& weights, std::int64_t M, std::int64_t N, std::int64_t K) {
  Problem problem;
  problem.M = M;
  problem.N = N;
  problem.K = K;
  problem.weights = weights;
  return problem;
}

QuantizedMatrices quantized_matrices(Mode mode, int bits, int group_size, WeightLayout layout) {
  QuantizedMatrices matrices;
  matrices.settings = {find_format(mode, bits), group_size};
  matrices.layout = layout;
  return matrices;
}

const QuantizedMatrices affine4 = quantized_matrices(Mode::affine, 4, 64, WeightLayout::rows_along_k);
const QuantizedMatrices mxfp8 = quantized_matrices(Mode::mxfp8, 8, 32, WeightLayout::rows_along_k);
const QuantizedMatrices affine4_along_n = quantized_matrices(Mode::affine, 4, 64, WeightLayout::rows_along_n);

/// A routing with so many pairs for each expert.
Routing routing_of(const std::vector<std::int64_t>& pairs) {
  Routing routing;
  std::int64_t first = 0;
  for (std::size_t expert = 0; expert < pairs.size(); ++expert) {
    if (pairs[expert] != 0) {
      routing.segments.push_back({static_cast<std::int64_t>(expert), first, first + pairs[expert]});
      first += pairs[expert];
    }
  }
  routing.order.resize(static_cast<std::size_t>(first));
  std::iota(routing.order.begin(), routing.order.end(), 0);
  return routing;
}

Path path_of(const WeightMatrices& weights, std::int64_t rows) {
  const Plan plan = make_plan(problem_of(weights, 1, 512, 2048), limits, routing_of({rows}), 2);
  return segments_of(plan).front().path;
}

TEST(Plan, FewRowsOfAnIntegerFormatTakeTheGemv) {
  EXPECT_EQ(path_of(affine4, 1), Path::integer_gemv);
  EXPECT_EQ(path_of(affine4, 8), Path::integer_gemv);
  EXPECT_EQ(path_of(affine4, 9), Path::integer_gemm);
}

TEST(Plan, FormatsWithoutAnIntegerFormTakeTheFloatPath) {
  EXPECT_EQ(path_of(mxfp8, 12), Path::float_gemv);
  EXPECT_EQ(path_of(mxfp8, 13), Path::float_gemm);
}

TEST(Plan, RowsAlongNTakeKernelsOfTheirOwn) {
  EXPECT_EQ(path_of(affine4_along_n, 3), Path::float_gemv_along_n);
  EXPECT_EQ(path_of(affine4_along_n, 4), Path::float_gemm_along_n);
}

TEST(Plan, DenseWeightsAlwaysTakeTiles) {
  EXPECT_EQ(path_of(DenseMatrices{}, 1), Path::float_gemm);
  EXPECT_EQ(path_of(DenseMatrices{}, 100), Path::float_gemm);
}

TEST(Plan, PackedWeightsTakeThePathOfTheOriginals) {
  const QuantizedMatrices packed = quantized_matrices(Mode::affine, 4, 64, WeightLayout::strips);
  for (const std::int64_t rows : {1, 8, 9, 300}) {
    EXPECT_EQ(path_of(packed, rows), path_of(affine4, rows)) << rows;
  }
}

TEST(Plan, RowsOfAMatrixCountOneByOne) {
  const Plan plan = make_plan(problem_of(affine4, 3, 64, 128), limits, routing_of({2, 4}), 1);
  const std::vector<PlannedSegment> segments = segments_of(plan);
  ASSERT_EQ(segments.size(), 2U);
  EXPECT_EQ(segments[0].rows, 6);
  EXPECT_EQ(segments[0].path, Path::integer_gemv);
  EXPECT_EQ(segments[1].rows, 12);
  EXPECT_EQ(segments[1].path, Path::integer_gemm);
}

// A panel is packed for each block of rows, so a block of one row more would cost as much as a block of 256.
TEST(Plan, BlocksOfRowsAreEven) {
  for (const std::int64_t rows : {256, 257, 300, 512, 513, 1000}) {
    const Plan plan = make_plan(problem_of(affine4, 1, 48, 128), limits, routing_of({rows}), 1);
    const auto [fewest, most] =
        std::minmax_element(plan.items.begin(), plan.items.end(), [](const Item& a, const Item& b) { return a.rows < b.rows; });
    EXPECT_LE(most->rows, 256) << rows;
    EXPECT_LE(most->rows - fewest->rows, static_cast<std::int64_t>(plan.items.size())) << rows;
  }
}

TEST(Plan, AnItemOfTheLargestShapesStaysShort) {
  const Plan plan = make_plan(problem_of(affine4, 1, 4096, 1 << 20), limits, routing_of({256}), 2);
  for (const Item& item : plan.items) {
    EXPECT_LE(item.rows * item.strips * strip_width, std::int64_t{1} << 10) << "times K, 2^30 multiply-adds";
  }
}

TEST(Plan, TilesAndBlockSizesAreThoseOfTheLimits) {
  const Plan many = make_plan(problem_of(affine4, 1, 960, 2048), limits, routing_of({100}), 1);
  EXPECT_EQ(segments_of(many).front().mr, 5);
  EXPECT_EQ(segments_of(many).front().nr, 48);
  EXPECT_EQ(many.kc, 512) << "a panel of 3 strips and 512 k has 12 KiB of nibbles";
  const Plan few = make_plan(problem_of(affine4, 1, 960, 2048), limits, routing_of({6}), 1);
  EXPECT_EQ(segments_of(few).front().mr, 4);
  EXPECT_EQ(segments_of(few).front().nr, 16);
}

TEST(Plan, SlicesAreNoneOnTheFloatPath) {
  Problem problem = problem_of(affine4, 1, 64, 128);
  problem.slices = 2;
  EXPECT_EQ(make_plan(problem, limits, routing_of({1}), 1).slices, 2);
  problem.weights = mxfp8;
  EXPECT_EQ(make_plan(problem, limits, routing_of({1}), 1).slices, 0);
}

// Whatever the shape, each output of each expert that is hit belongs to exactly one item.
TEST(Plan, ItemsCoverEveryOutputOnce) {
  Random random(7);
  for (int round = 0; round < 300; ++round) {
    const std::vector<WeightMatrices> kinds = {affine4, mxfp8, affine4_along_n, DenseMatrices{}};
    const std::int64_t M = random.integer(1, 4);
    const std::int64_t N = random.integer(1, 700);
    std::vector<std::int64_t> pairs(static_cast<std::size_t>(random.integer(1, 5)));
    std::generate(pairs.begin(), pairs.end(), [&] { return random.integer(0, 1) * random.integer(0, 600); });
    const Routing routing = routing_of(pairs);
    const int threads = static_cast<int>(random.integer(1, 4));
    const Plan plan =
        make_plan(problem_of(kinds[static_cast<std::size_t>(round) % kinds.size()], M, N, 128), limits, routing, threads);
    const auto rows = static_cast<std::int64_t>(routing.order.size()) * M;
    std::vector<int> covered(static_cast<std::size_t>(rows * strips_of(N)));
    for (const Item& item : plan.items) {
      for (std::int64_t row = item.first_row; row < item.first_row + item.rows; ++row) {
        for (std::int64_t strip = item.first_strip; strip < item.first_strip + item.strips; ++strip) {
          ++covered[static_cast<std::size_t>(row * strips_of(N) + strip)];
        }
      }
    }
    EXPECT_TRUE(std::all_of(covered.begin(), covered.end(), [](int times) { return times == 1; })) << "round " << round;
    std::int64_t segment_rows = 0;
    for (const PlannedSegment& segment : segments_of(plan)) {
      EXPECT_EQ(segment.rows, pairs[static_cast<std::size_t>(segment.expert)] * M);
      segment_rows += segment.rows;
    }
    EXPECT_EQ(segment_rows, rows);
  }
}

TEST(Plan, MoreThreadsGetMoreItems) {
  const Routing routing = routing_of({1, 1, 1, 1, 1, 1, 1, 1});
  const Problem problem = problem_of(affine4, 1, 768, 2048);
  EXPECT_EQ(make_plan(problem, limits, routing, 1).items.size(), 8U) << "one run of strips for each expert";
  EXPECT_GE(make_plan(problem, limits, routing, 4).items.size(), 4U * 24U);
}

TEST(Plan, IsToldInWords) {
  const Plan plan = make_plan(problem_of(affine4, 1, 64, 2048), limits, routing_of({0, 2, 20}), 1);
  const std::string text = to_string(plan);
  EXPECT_NE(text.find("imagined, 1 thread, 3 slices of x, kc = 512\n"), std::string::npos) << text;
  EXPECT_NE(text.find("integer_gemv"), std::string::npos) << text;
  EXPECT_NE(text.find("integer_gemm"), std::string::npos) << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4) << text;
}

}  // namespace
}  // namespace gqmm
