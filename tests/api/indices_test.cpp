// lhs_indices and rhs_indices: what selects what, and what is refused.
#include "api_test_support.hpp"

namespace gqmm::test {

using namespace detail;

namespace {

using Positions = std::vector<std::int64_t>;

class Indices : public testing::Test {
 protected:
  Lowered lower(std::optional<array> lhs, std::optional<array> rhs, bool sorted = false) {
    weights_.options.lhs_indices = std::move(lhs);
    weights_.options.rhs_indices = std::move(rhs);
    weights_.options.sorted_indices = sorted;
    return lower_gather_qmm(x_, weights_, weights_.options);
  }

  array x_ = Generator(1).normal({2, 3, 1, 32});
  Weights weights_ = affine_weights(2, {4, 2}, 5, 32);
};

TEST_F(Indices, AreFlatPositionsInTheLeadingDimensions) {
  const Lowered lowered = lower(int64s({3}, {5, 0, 3}), int64s({3}, {7, 1, 0}));
  EXPECT_EQ(lowered.lhs, (Positions{5, 0, 3}));
  EXPECT_EQ(lowered.rhs, (Positions{7, 1, 0}));
  EXPECT_EQ(lowered.result.shape(), (Shape{3, 1, 5}));
}

TEST_F(Indices, OneAbsentCountsItsOperandInTheShapeOfItsLeadingDimensions) {
  const Lowered rhs_only = lower({}, int64s({1, 3}, {4, 4, 2}));
  EXPECT_EQ(rhs_only.lhs, (Positions{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(rhs_only.rhs, (Positions{4, 4, 2, 4, 4, 2}));
  EXPECT_EQ(rhs_only.result.shape(), (Shape{2, 3, 1, 5}));

  const Lowered lhs_only = lower(int64s({}, {5}), {});
  EXPECT_EQ(lhs_only.lhs, Positions(8, 5));
  EXPECT_EQ(lhs_only.rhs, (Positions{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(lhs_only.result.shape(), (Shape{4, 2, 1, 5}));
}

TEST_F(Indices, BroadcastTogether) {
  const Lowered lowered = lower(int64s({2, 1, 1}, {1, 4}), int64s({3, 2}, {0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(lowered.lhs, (Positions{1, 1, 1, 1, 1, 1, 4, 4, 4, 4, 4, 4}));
  EXPECT_EQ(lowered.rhs, (Positions{0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(lowered.result.shape(), (Shape{2, 3, 2, 1, 5}));
}

TEST_F(Indices, OfEveryIntegerTypeMeanTheSame) {
  const auto expect_same = [&](auto zero, Dtype dtype) {
    using T = decltype(zero);
    const Lowered lowered = lower(int64s({}, {0}), integers<T>({3}, {7, 0, 5}, dtype));
    EXPECT_EQ(lowered.rhs, (Positions{7, 0, 5})) << name_of(dtype);
  };
  expect_same(std::uint8_t{}, Dtype::uint8);
  expect_same(std::uint16_t{}, Dtype::uint16);
  expect_same(std::uint32_t{}, Dtype::uint32);
  expect_same(std::uint64_t{}, Dtype::uint64);
  expect_same(std::int8_t{}, Dtype::int8);
  expect_same(std::int16_t{}, Dtype::int16);
  expect_same(std::int32_t{}, Dtype::int32);
  expect_same(std::int64_t{}, Dtype::int64);
}

TEST_F(Indices, MayHaveAnyStrides) {
  const std::int32_t memory[] = {0, 1, 2, 3, 4, 5};
  const auto view = [&](const std::int32_t* first, const Shape& shape, const Strides& strides) {
    return lower(int64s({}, {0}), array::borrow(first, shape, Dtype::int32, strides)).rhs;
  };
  EXPECT_EQ(view(memory, {3}, {8}), (Positions{0, 2, 4}));
  EXPECT_EQ(view(memory + 5, {6}, {-4}), (Positions{5, 4, 3, 2, 1, 0}));
  EXPECT_EQ(view(memory, {2, 3}, {4, 8}), (Positions{0, 2, 4, 1, 3, 5}));
  EXPECT_EQ(view(memory + 1, {2, 2}, {0, 12}), (Positions{1, 4, 1, 4}));
  EXPECT_EQ(view(memory, {2, 3, 2}, {12, 0, 4}), (Positions{0, 1, 0, 1, 0, 1, 3, 4, 3, 4, 3, 4}));

  std::byte odd[1 + 3 * 9] = {};
  for (std::size_t i = 0; i < 3; ++i) {
    odd[1 + 9 * i] = static_cast<std::byte>(i + 2);
  }
  EXPECT_EQ(lower(int64s({}, {0}), array::borrow(odd + 1, {3}, Dtype::int64, {9})).rhs, (Positions{2, 3, 4}));
}

TEST_F(Indices, OutOfRangeAreNamedWithTheirPosition) {
  expect_error("[gather_qmm] rhs_indices[1, 2] = 8 is out of range: w has 8 matrices, so indices must lie in 0 ... 7",
               [&] { lower({}, int64s({2, 3}, {0, 1, 2, 3, 4, 8})); });
  expect_error("[gather_qmm] lhs_indices[1] = -1 is out of range: x has 6 matrices, so indices must lie in 0 ... 5",
               [&] { lower(integers<std::int8_t>({2}, {0, -1}, Dtype::int8), {}); });
  expect_error("[gather_qmm] rhs_indices = 8 is out of range: w has 8 matrices, so indices must lie in 0 ... 7",
               [&] { lower({}, int64s({}, {8})); });
  expect_error(
      "[gather_qmm] rhs_indices[0] = 18446744073709551615 is out of range: w has 8 matrices, so indices must lie in 0 ... 7",
      [&] { lower({}, integers<std::uint64_t>({1}, {~std::uint64_t{0}}, Dtype::uint64)); });
  const std::int64_t memory[] = {0, 9, 1, 9, 2, 8};
  expect_error("[gather_qmm] rhs_indices[1, 0] = 8 is out of range: w has 8 matrices, so indices must lie in 0 ... 7",
               [&] { lower(int64s({}, {0}), array::borrow(memory + 4, {2, 2}, Dtype::int64, {8, -16})); });
}

TEST_F(Indices, IntoNoMatricesAreOutOfRange) {
  weights_ = affine_weights(2, {0}, 5, 32);
  expect_error("[gather_qmm] rhs_indices[0] = 0 is out of range: w has no matrices", [&] { lower({}, int64s({1}, {0})); });
  weights_ = affine_weights(2, {}, 5, 32);
  expect_error("[gather_qmm] rhs_indices[0] = 1 is out of range: w has 1 matrix, so indices must lie in 0 ... 0",
               [&] { lower({}, int64s({1}, {1})); });
}

TEST_F(Indices, OfAnotherTypeAreRefused) {
  expect_error("[gather_qmm] rhs_indices has type float32; convert it to an integer type", [&] { lower({}, floats({1}, {0})); });
  expect_error("[gather_qmm] lhs_indices has type bool; convert it to an integer type",
               [&] { lower(integers<std::uint8_t>({1}, {0}, Dtype::bool_), {}); });
}

TEST_F(Indices, ThatDoNotBroadcastAreRefused) {
  expect_error(
      "[gather_qmm] lhs_indices (2, 2) and rhs_indices (3,) do not broadcast; make each pair of extents equal or one of them 1",
      [&] { lower(int64s({2, 2}, {0, 1, 2, 3}), int64s({3}, {0, 1, 2})); });
  expect_error(
      "[gather_qmm] leading dimensions of x (2, 3) and rhs_indices (2,) do not broadcast; make each pair of extents equal or "
      "one of them 1",
      [&] { lower({}, int64s({2}, {0, 1})); });
  expect_error(
      "[gather_qmm] leading dimensions of x (2, 3) and leading dimensions of w (4, 2) do not broadcast; make each pair of "
      "extents equal or one of them 1",
      [&] { lower({}, {}); });
}

TEST_F(Indices, PromisedSortedAreCheckedInTheirOwnOrder) {
  EXPECT_TRUE(lower(int64s({4}, {3, 1, 2, 0}), int64s({4}, {0, 0, 2, 7}), true).problem.sorted);
  expect_error(
      "[gather_qmm] sorted_indices is set but rhs_indices[1, 0] = 1 follows 2; sort the pairs by rhs_indices or leave "
      "sorted_indices unset",
      [&] { lower(int64s({}, {0}), int64s({2, 2}, {0, 2, 1, 3}), true); });
}

TEST_F(Indices, SortedOnesThatRepeatKeepThePromiseButNotTheFlag) {
  const Lowered repeated_whole = lower(int64s({2, 1}, {0, 1}), int64s({3}, {0, 1, 2}), true);
  EXPECT_EQ(repeated_whole.rhs, (Positions{0, 1, 2, 0, 1, 2}));
  EXPECT_FALSE(repeated_whole.problem.sorted);
  const Lowered repeated_each = lower(int64s({2}, {0, 1}), int64s({3, 1}, {0, 1, 2}), true);
  EXPECT_EQ(repeated_each.rhs, (Positions{0, 0, 1, 1, 2, 2}));
  EXPECT_TRUE(repeated_each.problem.sorted);
}

TEST_F(Indices, SortedIsIgnoredWithoutRhsIndices) {
  EXPECT_FALSE(lower(int64s({1}, {3}), {}, false).problem.sorted);
  EXPECT_NO_THROW(lower(int64s({4, 2}, {5, 4, 3, 2, 1, 0, 0, 0}), {}, true));
}

TEST_F(Indices, UnsortedWithoutAPromiseAreFine) {
  EXPECT_FALSE(lower({}, int64s({1, 1}, {3}), false).problem.sorted);
  EXPECT_NO_THROW(lower(int64s({}, {0}), int64s({3}, {3, 1, 2})));
}

TEST_F(Indices, ResultsFollowTheIndices) {
  Lowered lowered = lower(int64s({2, 1}, {5, 0}), int64s({3}, {7, 7, 2}));
  expect_within_bound(lowered);
}

// --- Negative indices: rows without an expert -----------------------------------------------------------------------------

TEST_F(Indices, NegativeOnesAreErrorsUnlessRowsMayBeMissing) {
  weights_.options.lhs_indices = int64s({2, 2}, {0, 1, 2, 3});
  weights_.options.rhs_indices = integers<std::int32_t>({2, 2}, {3, -2, 0, 1}, Dtype::int32);
  expect_error("[gather_qmm] rhs_indices[0, 1] = -2 is out of range: w has 8 matrices, so indices must lie in 0 ... 7",
               [&] { return gather_qmm(x_, weights_, weights_.options); });
  weights_.options.missing = Missing::zero;
  weights_.options.rhs_indices = integers<std::int32_t>({2, 2}, {3, -2, 8, 1}, Dtype::int32);
  expect_error(
      "[gather_qmm] rhs_indices[1, 0] = 8 is out of range: w has 8 matrices, so indices must lie in 0 ... 7, or be "
      "negative for a row without an expert",
      [&] { return gather_qmm(x_, weights_, weights_.options); });
}

TEST_F(Indices, MissingRowsAreZeroAndNotRead) {
  const array lhs = int64s({5}, {0, 1, 2, 1, 3});
  const array rhs = int64s({5}, {-1, 7, -9, 0, 7});
  array x = Generator(3).normal({4, 1, 32});
  std::fill_n(x.mutable_data<float>() + 2 * 32, 32, std::numeric_limits<float>::quiet_NaN());
  const array y = gather_qmm(x, weights_, {.lhs_indices = lhs, .rhs_indices = rhs, .missing = Missing::zero});
  const array some = gather_qmm(x, weights_, {.lhs_indices = int64s({3}, {1, 1, 3}), .rhs_indices = int64s({3}, {7, 0, 7})});
  const std::string all = memory_of(y);
  const std::string found = memory_of(some);
  const std::size_t row = 5 * sizeof(float);
  EXPECT_EQ(all.substr(0, row), std::string(row, '\0'));
  EXPECT_EQ(all.substr(row, row), found.substr(0, row));
  EXPECT_EQ(all.substr(2 * row, row), std::string(row, '\0'));
  EXPECT_EQ(all.substr(3 * row), found.substr(row));
  for (const int threads : {2, 7}) {
    EXPECT_EQ(
        memory_of(gather_qmm(x, pack(weights_),
                             {.lhs_indices = lhs, .rhs_indices = rhs, .missing = Missing::zero, .stream = {.threads = threads}})),
        all);
  }
}

TEST_F(Indices, OfMissingRowsSortFirst) {
  x_ = Generator(4).normal({4, 1, 32});
  GatherQmmOptions options = {.lhs_indices = int64s({4}, {0, 1, 2, 3}),
                              .rhs_indices = int64s({4}, {-1, -5, 2, 6}),
                              .sorted_indices = true,
                              .missing = Missing::zero};
  const std::string sorted = memory_of(gather_qmm(x_, weights_, options));
  options.sorted_indices = false;
  EXPECT_EQ(memory_of(gather_qmm(x_, weights_, options)), sorted);
  options.rhs_indices = int64s({4}, {2, -5, 2, 6});
  options.sorted_indices = true;
  expect_error(
      "[gather_qmm] sorted_indices is set but rhs_indices[1] = a negative value follows 2; sort the pairs by rhs_indices "
      "or leave sorted_indices unset",
      [&] { return gather_qmm(x_, weights_, options); });
  // All of them, and no matrices at all.
  options.rhs_indices = int64s({4}, {-1, -1, -1, -1});
  EXPECT_EQ(memory_of(gather_qmm(x_, weights_, options)), std::string(4 * 5 * sizeof(float), '\0'));
  const Weights none = affine_weights(2, {0}, 5, 32);
  EXPECT_EQ(memory_of(gather_qmm(x_, none, options)), std::string(4 * 5 * sizeof(float), '\0'));
}

}  // namespace
}  // namespace gqmm::test
