#include "cpu/scratch.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <new>

namespace gqmm::cpu {
namespace {

// Rows of x that lie in the same memory may be more than their slices have addresses.
TEST(Scratch, MemoryOfMoreBytesThanCanBeCountedIsRefused) {
  Scratch scratch;
  constexpr std::int64_t large = std::int64_t{1} << 31;
  EXPECT_THROW((void)scratch.take<float>(large, large), std::bad_alloc);      // 2^64 bytes
  EXPECT_THROW((void)scratch.take<float>(2 * large, large), std::bad_alloc);  // 2^63 elements
  EXPECT_THROW((void)scratch.take<float>(2 * large, 2 * large), std::bad_alloc);
  EXPECT_NE(scratch.take<float>(2, 3), nullptr);
}

}  // namespace
}  // namespace gqmm::cpu
