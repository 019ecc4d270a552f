// How often arrays ask for memory. This program counts every allocation, so it holds nothing else.
#include <gqmm/array.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

namespace {

std::size_t allocations = 0;

void* counted(std::size_t bytes, std::size_t alignment) {
  ++allocations;
  void* data = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (data == nullptr) {
    throw std::bad_alloc();
  }
  return data;
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) { return counted(bytes, static_cast<std::size_t>(alignment)); }
// Not inlined: GCC would take the free for one of memory that is not malloc's.
[[gnu::noinline]] void operator delete(void* data) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, std::size_t) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, std::align_val_t) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, std::size_t, std::align_val_t) noexcept { std::free(data); }

namespace gqmm::test {
namespace {

/// Allocations of `call`.
template <class Call>
std::size_t allocations_of(Call&& call) {
  const std::size_t before = allocations;
  call();
  return allocations - before;
}

TEST(Allocations, ASmallArrayIsOneBlock) {
  EXPECT_EQ(allocations_of([] { (void)array::empty({2, 3, 4}, Dtype::float32); }), 1U);
}

TEST(Allocations, ABorrowedArrayCopiedAndMovedIsNone) {
  const float values[6] = {};
  EXPECT_EQ(allocations_of([&] {
              array a = array::borrow(values, {1, 1, 1, 1, 2, 3});
              const array copy = a;
              const array moved = std::move(a);
              EXPECT_EQ(copy.bytes(), moved.bytes());
            }),
            0U);
}

TEST(Allocations, BlocksOfEverySizeAreAlignedTo64Bytes) {
  for (const std::int64_t bytes : {1, 63, 64, 65, 1000, (256 << 10) - 1, 256 << 10, 1 << 20}) {
    const array a = array::empty({bytes}, Dtype::uint8);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.bytes()) % 64, 0U) << bytes;
    a.mutable_bytes()[0] = a.mutable_bytes()[bytes - 1] = std::byte{1};
  }
}

}  // namespace
}  // namespace gqmm::test
