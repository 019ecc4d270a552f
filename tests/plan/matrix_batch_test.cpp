#include "arrays/matrix_batch.hpp"

#include "conformance/support/random.hpp"

#include <gqmm/array.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace gqmm {

using namespace detail;

namespace {

using conformance::Random;

const std::byte anchor[1] = {};

// Addresses are compared, nothing is read: the strides may lead anywhere.
array view(Shape shape, Strides strides) { return array::borrow(anchor, std::move(shape), Dtype::float32, std::move(strides)); }

std::int64_t offset_by_definition(const array& a, std::int64_t index) {
  std::int64_t offset = 0;
  for (int axis = a.rank() - 3; axis >= 0; --axis) {
    offset += index % a.dim(axis) * a.stride(axis);
    index /= a.dim(axis);
  }
  return offset;
}

std::int64_t offset_of(const MatrixBatch& batch, std::int64_t index) {
  return static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(batch.matrix(index)) -
                                   reinterpret_cast<std::intptr_t>(anchor));
}

TEST(MatrixBatch, AMatrixIsABatchOfOne) {
  const MatrixBatch batch(view({3, 5}, {100, -8}));
  EXPECT_FALSE(batch.empty());
  EXPECT_EQ(batch.count(), 1);
  EXPECT_EQ(batch.rows(), 3);
  EXPECT_EQ(batch.cols(), 5);
  EXPECT_EQ(batch.row_stride(), 100);
  EXPECT_EQ(batch.col_stride(), -8);
  EXPECT_EQ(offset_of(batch, 0), 0);
}

TEST(MatrixBatch, ADefaultOneIsEmpty) { EXPECT_TRUE(MatrixBatch().empty()); }

TEST(MatrixBatch, APermutedBatchKeepsItsFlatOrder) {
  const array a = view({2, 3, 4, 5}, {80, 160, 20, 4});  // axes 0 and 1 swapped in memory
  const MatrixBatch batch(a);
  EXPECT_EQ(batch.count(), 6);
  const std::int64_t expected[] = {0, 160, 320, 80, 240, 400};
  for (std::int64_t index = 0; index < 6; ++index) {
    EXPECT_EQ(offset_of(batch, index), expected[index]) << index;
  }
}

TEST(MatrixBatch, OffsetsPast32BitsAreExact) {
  const std::int64_t far = (std::int64_t{1} << 40) + 12;
  const MatrixBatch batch(view({3, 5, 7, 9}, {-far, 4, far, 4}));
  EXPECT_EQ(offset_of(batch, 14), -2 * far + 16);
  EXPECT_EQ(reinterpret_cast<std::intptr_t>(batch.row(0, 6)) - reinterpret_cast<std::intptr_t>(anchor), 6 * far);
}

TEST(MatrixBatch, EveryShapeAndStridesAddressAsTheirDefinitionSays) {
  Random random(2);
  for (int repetition = 0; repetition < 5000; ++repetition) {
    const auto rank = static_cast<std::size_t>(random.integer(2, 6));
    Shape shape(rank);
    Strides strides(rank);
    std::int64_t contiguous = 4;
    for (std::size_t axis = rank; axis-- > 0;) {
      shape[axis] = random.integer(1, 4);
      // Often the stride that merges with the neighbour, else any, zero and negative included.
      strides[axis] = random.chance(0.6) ? contiguous : random.integer(-50, 50);
      contiguous = strides[axis] * shape[axis];
    }
    const array a = view(shape, strides);
    const MatrixBatch batch(a);
    ASSERT_EQ(batch.count(), element_count(shape) / (a.dim(-1) * a.dim(-2)));
    for (std::int64_t index = 0; index < batch.count(); ++index) {
      ASSERT_EQ(offset_of(batch, index), offset_by_definition(a, index))
          << "matrix " << index << " of " << to_string(shape) << " with strides " << to_string(strides);
    }
  }
}

}  // namespace
}  // namespace gqmm
