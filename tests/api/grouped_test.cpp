// grouped_qmm and grouped_mm: the bits of gather_qmm and gather_mm, rows behind the last group, and what is refused.
#include "api_test_support.hpp"

namespace gqmm::test {

using namespace detail;

namespace {

array int32s(const std::vector<std::int32_t>& values) {
  return integers({static_cast<std::int64_t>(values.size())}, values, Dtype::int32);
}

/// 7 rows of three experts, of which the second has none.
class Grouped : public testing::Test {
 protected:
  array x_ = Generator(1).normal({7, 64});
  array dy_ = Generator(2).normal({7, 48});
  QuantizedWeights weights_ = affine_weights(3, {3}, 48, 64);
  array b_ = Generator(4).normal({3, 64, 48});
  array ends_ = int32s({2, 2, 7});
  array experts_ = int64s({7}, {0, 0, 2, 2, 2, 2, 2});
  array rows_ = array::borrow(x_.bytes(), {7, 1, 64}, Dtype::float32, {}, x_.owner());
  array dy_rows_ = array::borrow(dy_.bytes(), {7, 1, 48}, Dtype::float32, {}, dy_.owner());
};

TEST_F(Grouped, HasTheBitsOfGatheredProducts) {
  const std::string expected = memory_of(gather_qmm(rows_, weights_, {.rhs_indices = experts_}));
  EXPECT_EQ(memory_of(grouped_qmm(x_, weights_, ends_)), expected);
  EXPECT_EQ(memory_of(grouped_qmm(x_, pack(weights_), int64s({4}, {0, 2, 2, 7}), {.stream = {.threads = 3}})), expected);
  EXPECT_EQ(grouped_qmm(x_, weights_, ends_).shape(), (Shape{7, 48}));
  const std::string dense = memory_of(gather_mm(rows_, b_, {.rhs_indices = experts_}));
  EXPECT_EQ(memory_of(grouped_mm(x_, b_, ends_)), dense);
  EXPECT_EQ(memory_of(grouped_mm(x_, b_, int64s({3}, {2, 2, 7}), {.stream = {.threads = 3}})), dense);
}

TEST_F(Grouped, RowsBehindTheLastGroupAreZeroAndNotRead) {
  const array all = grouped_qmm(x_, weights_, ends_);
  std::fill_n(x_.mutable_data<float>() + 5 * 64, 2 * 64, std::numeric_limits<float>::quiet_NaN());
  const std::string behind(2 * 48 * sizeof(float), '\0');
  const array fewer = int32s({0, 2, 2, 5});
  const std::string y = memory_of(grouped_qmm(x_, weights_, fewer, {.rows = Missing::zero}));
  EXPECT_EQ(y, memory_of(all).substr(0, 5 * 48 * sizeof(float)) + behind);
  const std::string dense = memory_of(grouped_mm(x_, b_, fewer, {.rows = Missing::zero}));
  EXPECT_EQ(dense.substr(dense.size() - behind.size()), behind);
}

TEST_F(Grouped, HasTheGradientsOfGatheredProducts) {
  const QuantizedGradients expected =
      gather_qmm_vjp(dy_rows_, rows_, weights_, {.rhs_indices = experts_, .wrt = {.x = true, .scales = true, .biases = true}});
  const QuantizedGradients actual =
      grouped_qmm_vjp(dy_, x_, weights_, ends_, {.wrt = {.x = true, .scales = true, .biases = true}});
  EXPECT_EQ(actual.x->shape(), x_.shape());
  EXPECT_EQ(memory_of(*actual.x), memory_of(*expected.x));
  EXPECT_EQ(memory_of(*actual.scales), memory_of(*expected.scales));
  EXPECT_EQ(memory_of(*actual.biases), memory_of(*expected.biases));
  const DenseGradients dense = gather_mm_vjp(dy_rows_, rows_, b_, {.rhs_indices = experts_});
  const GroupedMmGradients grouped = grouped_mm_vjp(dy_, x_, b_, ends_);
  EXPECT_EQ(memory_of(*grouped.x), memory_of(*dense.a));
  EXPECT_EQ(memory_of(*grouped.b), memory_of(*dense.b));
}

// Rows without an expert have the gradient zero, and change no other one: also where x and dy are NaN.
TEST_F(Grouped, RowsBehindTheLastGroupHaveTheGradientZero) {
  const auto first_rows = [](const array& a, std::int64_t n) {
    return array::borrow(a.bytes(), {n, a.dim(1)}, a.dtype(), {}, a.owner());
  };
  const array ends = int32s({2, 2, 5});
  const QuantizedWrt wrt = {.x = true, .scales = true, .biases = true};
  const QuantizedGradients expected = grouped_qmm_vjp(first_rows(dy_, 5), first_rows(x_, 5), weights_, ends, {.wrt = wrt});
  const GroupedMmGradients dense = grouped_mm_vjp(first_rows(dy_, 5), first_rows(x_, 5), b_, ends);
  std::fill_n(x_.mutable_data<float>() + 5 * 64, 2 * 64, std::numeric_limits<float>::quiet_NaN());
  std::fill_n(dy_.mutable_data<float>() + 5 * 48, 2 * 48, std::numeric_limits<float>::quiet_NaN());
  const std::string behind(2 * 64 * sizeof(float), '\0');
  const QuantizedGradients actual = grouped_qmm_vjp(dy_, x_, weights_, ends, {.rows = Missing::zero, .wrt = wrt});
  EXPECT_EQ(memory_of(*actual.x), memory_of(*expected.x) + behind);
  EXPECT_EQ(memory_of(*actual.scales), memory_of(*expected.scales));
  EXPECT_EQ(memory_of(*actual.biases), memory_of(*expected.biases));
  const GroupedMmGradients with_missing = grouped_mm_vjp(dy_, x_, b_, ends, {.rows = Missing::zero});
  EXPECT_EQ(memory_of(*with_missing.x), memory_of(*dense.x) + behind);
  EXPECT_EQ(memory_of(*with_missing.b), memory_of(*dense.b));
}

TEST_F(Grouped, EmptyGroupsAndNoRows) {
  const array none = array::empty({0, 64}, Dtype::float32);
  EXPECT_EQ(grouped_qmm(none, weights_, int32s({0, 0, 0})).shape(), (Shape{0, 48}));
  const QuantizedWeights no_experts = affine_weights(3, {0}, 48, 64);
  EXPECT_EQ(grouped_qmm(none, no_experts, int32s({})).shape(), (Shape{0, 48}));
  EXPECT_EQ(grouped_qmm(none, no_experts, int32s({0})).shape(), (Shape{0, 48}));
}

TEST_F(Grouped, RefusesWrongOffsets) {
  const auto expect_refused = [&](const std::string& message, const array& offsets) {
    expect_error("[grouped_qmm] " + message, [&] { return grouped_qmm(x_, weights_, offsets); });
    expect_error("[grouped_mm] " + message, [&] { return grouped_mm(x_, b_, offsets); });
  };
  expect_refused("offsets has type float32; convert it to int32 or int64", Generator(1).normal({3}));
  expect_refused("offsets has shape (2,); with 3 experts it must be (3,), the end of each group, or (4,), which begins with 0",
                 int32s({2, 7}));
  expect_refused("offsets[0] = 1 of 4 values for 3 experts; the first one is where the first group begins, 0",
                 int32s({1, 2, 2, 7}));
  expect_refused("offsets[1] = 1 follows 2 and x has 7 rows; offsets must not decrease, nor go beyond the rows",
                 int32s({2, 1, 7}));
  expect_refused("offsets[2] = 8 follows 2 and x has 7 rows; offsets must not decrease, nor go beyond the rows",
                 int32s({2, 2, 8}));
  expect_refused("offsets[0] = -1 is out of range: it must be 0 or more", int32s({-1, 2, 7}));
  expect_refused("the last offset is 5 but x has 7 rows; pass x[:5], or rows = \"zero\" for results of zero behind it",
                 int32s({2, 2, 5}));
}

TEST_F(Grouped, ShapeAndTypeOfOffsetsAreCheckedWithoutTheirValues) {
  const GroupedRows grouped = {.op = "grouped_mm", .rows = 7, .experts = 3};
  check_offsets(int32s({9, 0, -1}), grouped);
  check_offsets(int64s({4}, {9, 0, -1, 2}), grouped);
  expect_error(
      "[grouped_mm] offsets has shape (2,); with 3 experts it must be (3,), the end of each group, or (4,), which begins "
      "with 0",
      [&] { check_offsets(int32s({2, 7}), grouped); });
  expect_error("[grouped_mm] offsets has type float32; convert it to int32 or int64",
               [&] { check_offsets(Generator(1).normal({3}), grouped); });
}

TEST_F(Grouped, RefusesWrongOperands) {
  expect_error("[grouped_qmm] x has shape (7, 1, 64); it must have two dimensions, (R, K)",
               [&] { return grouped_qmm(rows_, weights_, ends_); });
  expect_error("[grouped_qmm] weights has 0 leading dimensions; it must have one, which counts experts",
               [&] { return grouped_qmm(x_, affine_weights(3, {}, 48, 64), ends_); });
  expect_error("[grouped_mm] x has shape (7, 64) and b has shape (3, 48, 64); they must be (R, K) and (E, K, N) with the same K",
               [&] { return grouped_mm(x_, Generator(4).normal({3, 48, 64}), ends_); });
  expect_error("[grouped_mm] out is float32 (7, 1, 48) but the result is float32 (7, 48); allocate it so",
               [&] { return grouped_mm(x_, b_, ends_, {.out = array::empty({7, 1, 48}, Dtype::float32)}); });
  expect_error("[grouped_mm_vjp] wrt is empty; ask for the gradient of x or b",
               [&] { return grouped_mm_vjp(dy_, x_, b_, ends_, {.wrt = {.x = false, .b = false}}); });
  const array memory = array::empty({7, 48}, Dtype::float32);
  EXPECT_EQ(grouped_mm(x_, b_, ends_, {.out = memory}).bytes(), memory.bytes());
}

}  // namespace
}  // namespace gqmm::test
