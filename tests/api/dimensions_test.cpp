// Shape and Strides: what a std::vector of numbers does, in the object itself as long as there are few.
#include <gqmm/shape.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace gqmm::test {
namespace {

static_assert(std::is_nothrow_default_constructible_v<Shape>);
static_assert(std::is_nothrow_move_constructible_v<Shape>);
static_assert(std::is_nothrow_move_assignable_v<Shape>);

/// 1, 2, … count.
Shape counted(std::size_t count) {
  Shape shape;
  for (std::size_t i = 0; i < count; ++i) {
    shape.push_back(static_cast<std::int64_t>(i + 1));
  }
  return shape;
}

std::vector<std::int64_t> values_of(const Shape& shape) { return {shape.begin(), shape.end()}; }

bool lies_in_the_object(const Shape& shape) {
  const auto address = reinterpret_cast<std::uintptr_t>(shape.data());
  const auto object = reinterpret_cast<std::uintptr_t>(&shape);
  return address >= object && address < object + sizeof shape;
}

/// On both sides of the capacity of the object.
constexpr std::size_t counts[] = {0, 1, 5, 6, 7, 13, 40};

TEST(Dimensions, GrowByOneAtATime) {
  for (const std::size_t count : counts) {
    const Shape shape = counted(count);
    ASSERT_EQ(shape.size(), count);
    EXPECT_EQ(shape.empty(), count == 0);
    for (std::size_t i = 0; i < count; ++i) {
      EXPECT_EQ(shape[i], static_cast<std::int64_t>(i + 1));
    }
    EXPECT_EQ(lies_in_the_object(shape), count <= Shape::inline_capacity) << count;
  }
}

TEST(Dimensions, AreMadeLikeVectors) {
  EXPECT_EQ(values_of(Shape(8, 3)), std::vector<std::int64_t>(8, 3));
  EXPECT_EQ(values_of(Shape(3)), std::vector<std::int64_t>(3, 0));
  EXPECT_EQ(values_of(Shape{2, 3}), (std::vector<std::int64_t>{2, 3}));
  const std::vector<int> narrow = {4, 5, 6, 7, 8, 9, 10};
  EXPECT_EQ(Shape(narrow.begin(), narrow.end()), (Shape{4, 5, 6, 7, 8, 9, 10}));
}

TEST(Dimensions, CopiesAreIndependent) {
  for (const std::size_t from : counts) {
    for (const std::size_t to : counts) {
      const Shape original = counted(from);
      Shape copy = original;
      EXPECT_EQ(copy, original);
      copy.push_back(0);
      EXPECT_EQ(original, counted(from));
      Shape assigned = counted(to);
      assigned = original;
      EXPECT_EQ(assigned, original) << from << " over " << to;
      const Shape& itself = assigned;
      assigned = itself;
      EXPECT_EQ(assigned, original);
    }
  }
}

TEST(Dimensions, MovesTakeTheNumbersAndLeaveNone) {
  for (const std::size_t from : counts) {
    for (const std::size_t to : counts) {
      Shape original = counted(from);
      const std::int64_t* const memory = original.data();
      Shape moved = std::move(original);
      EXPECT_EQ(moved, counted(from));
      EXPECT_TRUE(original.empty());  // NOLINT(bugprone-use-after-move): it promises that
      EXPECT_EQ(moved.data() == memory, from > Shape::inline_capacity) << "memory of its own goes along";
      Shape assigned = counted(to);
      assigned = std::move(moved);
      EXPECT_EQ(assigned, counted(from)) << from << " over " << to;
      moved = {7};  // as good as new
      EXPECT_EQ(moved, (Shape{7}));
    }
  }
}

TEST(Dimensions, AreInsertedAndErasedInPlace) {
  Shape shape = {1, 2, 3};
  EXPECT_EQ(*shape.insert(shape.begin() + 1, {8, 9}), 8);
  EXPECT_EQ(shape, (Shape{1, 8, 9, 2, 3}));
  shape.insert(shape.end(), {4, 5, 6, 7});
  EXPECT_EQ(shape, (Shape{1, 8, 9, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(*shape.erase(shape.begin()), 8);
  EXPECT_EQ(shape, (Shape{8, 9, 2, 3, 4, 5, 6, 7}));
  shape.pop_back();
  EXPECT_EQ(shape.back(), 6);
  EXPECT_EQ(shape.front(), 8);
  shape.resize(2);
  shape.resize(4, -1);
  EXPECT_EQ(shape, (Shape{8, 9, -1, -1}));
  shape.clear();
  EXPECT_TRUE(shape.empty());
}

TEST(Dimensions, CompareByLengthAndNumber) {
  EXPECT_EQ((Shape{1, 2}), (Shape{1, 2}));
  EXPECT_NE((Shape{1, 2}), (Shape{1, 3}));
  EXPECT_NE((Shape{1, 2}), (Shape{1, 2, 3}));
  EXPECT_EQ(Shape{}, Shape{});
  Shape from_the_heap = counted(9);
  from_the_heap.resize(2);
  EXPECT_EQ(from_the_heap, (Shape{1, 2}));
}

}  // namespace
}  // namespace gqmm::test
