// Operands of any layout: the same results, and copies only where rows are not contiguous.
#include "api_test_support.hpp"

#include "arrays/contiguous.hpp"

#include <algorithm>

namespace gqmm::test {

using namespace detail;

namespace {

/// The dimensions of `a` in another order, without a copy.
array permuted(const array& a, const std::vector<int>& axes) {
  Shape shape;
  Strides strides;
  for (const int axis : axes) {
    shape.push_back(a.dim(axis));
    strides.push_back(a.stride(axis));
  }
  return array::borrow(a.bytes(), shape, a.dtype(), strides, a.owner());
}

/// Dimension `axis` backwards.
array reversed(const array& a, int axis) {
  Strides strides = a.strides();
  const auto at = static_cast<std::size_t>(axis);
  const std::byte* last = a.bytes() + (a.dim(axis) - 1) * strides[at];
  strides[at] = -strides[at];
  return array::borrow(last, a.shape(), a.dtype(), strides, a.owner());
}

/// Every `step`-th element of dimension `axis`.
array stepped(const array& a, int axis, std::int64_t step) {
  Shape shape = a.shape();
  Strides strides = a.strides();
  const auto at = static_cast<std::size_t>(axis);
  shape[at] = (shape[at] + step - 1) / step;
  strides[at] *= step;
  return array::borrow(a.bytes(), shape, a.dtype(), strides, a.owner());
}

/// The same values at an odd address, rows an odd number of bytes apart.
array at_odd_addresses(const array& a) {
  const auto itemsize = a.itemsize();
  const std::int64_t row_bytes = a.dim(-1) * itemsize + 3;
  Strides strides(a.shape().size());
  std::int64_t step = row_bytes;
  for (std::size_t axis = strides.size() - 1; axis-- > 0;) {
    strides[axis] = step;
    step *= a.shape()[axis];
  }
  strides.back() = itemsize;
  const array memory = array::empty({step + 1}, Dtype::uint8);
  const std::int64_t rows = a.size() / a.dim(-1);
  for (std::int64_t row = 0; row < rows; ++row) {
    std::memcpy(memory.mutable_bytes() + 1 + row * row_bytes, a.bytes() + row * a.dim(-1) * itemsize,
                static_cast<std::size_t>(a.dim(-1) * itemsize));
  }
  return array::borrow(memory.bytes() + 1, a.shape(), a.dtype(), strides, memory.owner());
}

/// The same values with the last dimension outermost in memory.
array column_major(const array& a) {
  std::vector<int> axes(static_cast<std::size_t>(a.rank()));
  for (int axis = 0; axis < a.rank(); ++axis) {
    axes[static_cast<std::size_t>(axis)] = axis;
  }
  std::rotate(axes.begin(), axes.end() - 1, axes.end());
  const array memory = copy_row_major(permuted(a, axes));
  std::vector<int> back(axes.size());
  for (std::size_t i = 0; i < axes.size(); ++i) {
    back[static_cast<std::size_t>(axes[i])] = static_cast<int>(i);
  }
  return permuted(memory, back);
}

class StridesTest : public testing::Test {
 protected:
  array x = Generator(1).normal({6, 3, 64});
  Weights weights = affine_weights(2, {4}, 18, 64);
  array& w = weights.w;
  array& scales = weights.scales;
  array& biases = *weights.biases;

  void SetUp() override {
    weights.options.lhs_indices = int64s({5}, {0, 5, 2, 2, 1});
    weights.options.rhs_indices = int64s({5}, {3, 0, 3, 1, 0});
  }
  std::string result() { return memory_of(gather_qmm(x, weights, weights.options)); }

  /// The weights that the problem reads are the caller's memory.
  void expect_in_place() {
    const Lowered lowered = lower_gather_qmm(x, weights, weights.options);
    EXPECT_EQ(quantized(lowered.problem.weights)->codes.matrix(0), w.bytes());
    EXPECT_EQ(quantized(lowered.problem.weights)->scales.matrix(0), scales.bytes());
    EXPECT_EQ(quantized(lowered.problem.weights)->biases.matrix(0), biases.bytes());
    EXPECT_EQ(lowered.problem.x.matrix(0), x.bytes());
  }

  /// The results for these views are those for row-major copies of them.
  void expect_same_as_copies() {
    const std::string strided = result();
    x = copy_row_major(x);
    w = copy_row_major(w);
    scales = copy_row_major(scales);
    biases = copy_row_major(biases);
    EXPECT_EQ(strided, result());
  }
};

TEST_F(StridesTest, SlicedExpertsAndRowsAreUsedInPlace) {
  weights = affine_weights(2, {8}, 36, 64);
  SetUp();
  for (array* a : {&w, &scales, &biases}) {
    *a = stepped(stepped(*a, 0, 2), 1, 2);
  }
  x = stepped(Generator(3).normal({6, 9, 64}), 1, 3);
  expect_in_place();
  expect_same_as_copies();
}

TEST_F(StridesTest, PermutedLeadingDimensionsAndRowsAreUsedInPlace) {
  for (array* a : {&w, &scales, &biases}) {
    *a = permuted(*a, {1, 0, 2});  // 18 matrices of 4 rows
  }
  x = permuted(x, {1, 0, 2});
  weights.options.lhs_indices = int64s({5}, {0, 2, 2, 2, 1});
  weights.options.rhs_indices = int64s({5}, {3, 17, 3, 1, 0});
  expect_in_place();
  expect_same_as_copies();
}

TEST_F(StridesTest, LeadingDimensionsThatDoNotCollapse) {
  weights = affine_weights(2, {2, 3, 2}, 18, 64);
  for (array* a : {&w, &scales, &biases}) {
    *a = permuted(*a, {2, 0, 1, 3, 4});
  }
  weights.options.rhs_indices = int64s({6}, {11, 3, 5, 6, 0, 8});
  expect_in_place();
  expect_same_as_copies();
}

TEST_F(StridesTest, NegativeStridesAreUsedInPlace) {
  for (array* a : {&w, &scales, &biases}) {
    *a = reversed(reversed(*a, 0), 1);
  }
  x = reversed(reversed(x, 1), 0);
  expect_in_place();
  expect_same_as_copies();
}

TEST_F(StridesTest, ZeroStridesAreUsedInPlace) {
  for (array* a : {&w, &scales, &biases}) {
    *a = array::borrow(a->bytes(), a->shape(), a->dtype(), {0, 0, a->stride(2)}, a->owner());
  }
  x = array::borrow(x.bytes(), x.shape(), x.dtype(), {0, x.stride(1), 4}, x.owner());
  expect_in_place();
  expect_same_as_copies();
}

TEST_F(StridesTest, OddAddressesAreUsedInPlace) {
  for (array* a : {&w, &scales, &biases, &x}) {
    *a = at_odd_addresses(*a);
  }
  expect_in_place();
  expect_same_as_copies();
}

TEST_F(StridesTest, RowsThatAreNotContiguousAreCopied) {
  const std::string expected = result();
  for (array* a : {&w, &scales, &biases, &x}) {
    *a = column_major(*a);
    EXPECT_FALSE(has_contiguous_rows(*a));
  }
  const Lowered lowered = lower_gather_qmm(x, weights, weights.options);
  EXPECT_NE(quantized(lowered.problem.weights)->codes.matrix(0), w.bytes());
  EXPECT_EQ(quantized(lowered.problem.weights)->codes.col_stride(), 4);
  EXPECT_EQ(lowered.problem.x.col_stride(), 4);
  EXPECT_EQ(result(), expected);
}

TEST_F(StridesTest, RowsBackwardsAreCopied) {
  x = reversed(x, 2);
  w = reversed(w, 2);
  expect_same_as_copies();
}

TEST_F(StridesTest, RowsOfEqualElementsAreCopied) {
  x = array::borrow(x.bytes(), {6, 3, 64}, Dtype::float32, {768, 256, 0}, x.owner());
  scales = array::borrow(scales.bytes(), scales.shape(), Dtype::float32, {144, 8, 0}, scales.owner());
  expect_same_as_copies();
}

TEST_F(StridesTest, WithoutTranspose) {
  weights = affine_weights(5, {4}, 64, 18, false);
  SetUp();
  x = Generator(6).normal({6, 3, 18});
  const std::string expected = result();
  for (array* a : {&w, &scales, &biases, &x}) {
    *a = at_odd_addresses(*a);
  }
  EXPECT_EQ(result(), expected);
  for (array* a : {&w, &scales, &biases, &x}) {
    *a = column_major(copy_row_major(*a));
  }
  EXPECT_EQ(result(), expected);
}

TEST_F(StridesTest, DenseOperandsMayBeTransposedViews) {
  const array a = Generator(7).normal({3, 5, 40});
  const array b = Generator(8).normal({4, 40, 9});
  const GatherMmOptions options = {.lhs_indices = int64s({3}, {2, 0, 2}), .rhs_indices = int64s({3}, {3, 3, 1})};
  EXPECT_EQ(memory_of(gather_mm(a, b, options)), memory_of(gather_mm(column_major(a), column_major(b), options)));
}

TEST(ContiguousRows, OnlyUsedMatricesAreFilled) {
  const std::vector<float> values = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  const array a = permuted(floats({3, 2, 2}, values), {0, 2, 1});
  // Fresh memory is arbitrary, so only what must be there is compared.
  const std::vector<std::int64_t> used = {2, 0, 2};
  const array copy = with_contiguous_rows(a, used);
  EXPECT_TRUE(has_contiguous_rows(copy));
  EXPECT_EQ(std::vector<float>(copy.data<float>(), copy.data<float>() + 4), (std::vector<float>{0, 2, 1, 3}));
  EXPECT_EQ(std::vector<float>(copy.data<float>() + 8, copy.data<float>() + 12), (std::vector<float>{8, 10, 9, 11}));
}

TEST(ContiguousRows, RepeatedMatricesAreStoredOnce) {
  const array matrix = floats({2, 2}, {1, 2, 3, 4});
  const std::int64_t count = std::int64_t{1} << 33;
  const array repeated = array::borrow(matrix.bytes(), {count, 2, 2}, Dtype::float32, {0, 4, 8}, matrix.owner());
  const std::vector<std::int64_t> used = {count - 1};
  const array copy = with_contiguous_rows(repeated, used);
  EXPECT_EQ(copy.shape(), repeated.shape());
  EXPECT_EQ(copy.strides(), (Strides{0, 8, 4}));
  EXPECT_EQ(std::vector<float>(copy.data<float>(), copy.data<float>() + 4), (std::vector<float>{1, 3, 2, 4}));
}

TEST(ContiguousRows, EqualRowsAreStoredOnce) {
  const array row = floats({4}, {1, 2, 3, 4});
  const std::int64_t count = std::int64_t{1} << 33;
  const array same = array::borrow(row.bytes(), {1, count, 2}, Dtype::float32, {16, 0, 8}, row.owner());
  const std::vector<std::int64_t> used = {0};
  const array copy = with_contiguous_rows(same, used);
  EXPECT_EQ(copy.shape(), same.shape());
  EXPECT_EQ(copy.strides(), (Strides{8, 0, 4}));
  EXPECT_EQ(std::vector<float>(copy.data<float>(), copy.data<float>() + 2), (std::vector<float>{1, 3}));
}

TEST(ContiguousRows, LargeMatricesAreCopiedWhole) {
  Generator random(1);
  const array a = random.normal({2, 70, 45});  // more than two tiles both ways, with remainders
  EXPECT_EQ(memory_of(copy_row_major(permuted(copy_row_major(permuted(a, {0, 2, 1})), {0, 2, 1}))), memory_of(a));
}

}  // namespace
}  // namespace gqmm::test
