// gqmm::array: layouts that it takes and refuses, and its exchange through DLPack.
#include "api_test_support.hpp"

#include <dlpack/dlpack.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace gqmm::test {
namespace {

constexpr std::int64_t huge = std::int64_t{1} << 40;

TEST(Array, IsRowMajorByDefaultAndAlignedTo64Bytes) {
  const array a = array::empty({2, 3, 4}, Dtype::float16);
  EXPECT_EQ(a.strides(), (Strides{24, 8, 2}));
  EXPECT_TRUE(a.is_row_major());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.bytes()) % 64, 0U);
  EXPECT_EQ(a.size(), 24);
  EXPECT_EQ(a.dim(-1), 4);
  EXPECT_EQ(a.stride(0), 24);
}

TEST(Array, LargeBlocksBeginAtAHugePageWhenRecycledToo) {
  constexpr std::int64_t bytes = std::int64_t{16} << 20;
  constexpr std::uintptr_t huge_page = std::uintptr_t{2} << 20;
  for (int round = 0; round < 3; ++round) {
    array a = array::empty({bytes}, Dtype::uint8);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.bytes()) % huge_page, 0U);
    a.mutable_bytes()[0] = a.mutable_bytes()[bytes - 1] = std::byte{1};
  }
}

TEST(Array, StridesOfDimensionsOfOneElementDoNotMatterForRowMajor) {
  const float memory[6] = {};
  EXPECT_TRUE(array::borrow(memory, {1, 6}, Dtype::float32, {-3, 4}).is_row_major());
  EXPECT_FALSE(array::borrow(memory, {2, 3}, Dtype::float32, {4, 8}).is_row_major());
  EXPECT_TRUE(array::borrow(nullptr, {0, 3}, Dtype::float32, {1, 1}).is_row_major());
}

TEST(Array, RefusesImpossibleLayouts) {
  const float memory[4] = {};
  expect_error("[array] shape (2, -1) has a negative extent; extents are 0 or more",
               [&] { return array::borrow(memory, {2, -1}, Dtype::float32); });
  expect_error("[array] shape (-4,) has a negative extent; extents are 0 or more",
               [] { return array::empty({-4}, Dtype::float32); });
  expect_error("[array] 1 strides for the 2 dimensions of shape (2, 2); give one per dimension",
               [&] { return array::borrow(memory, {2, 2}, Dtype::float32, {4}); });
  expect_error("[array] null data for shape (2,); pass the address of its elements",
               [] { return array::borrow(nullptr, {2}, Dtype::float32); });
}

TEST(Array, RefusesSizesBeyond64Bits) {
  const float memory[4] = {};
  expect_error("[array] shape (1099511627776, 1099511627776) of 4 bytes per element exceeds 64 bits; use a smaller one",
               [&] { return array::borrow(memory, {huge, huge}, Dtype::float32, {0, 0}); });
  expect_error("[array] shape (1099511627776, 4194304) of 2 bytes per element exceeds 64 bits; use a smaller one",
               [] { return array::empty({huge, 1 << 22}, Dtype::float16); });
  expect_error(
      "[array] a stride of 4611686018427387904 bytes along 4 elements exceeds 64 bits; give strides within the memory, in bytes",
      [&] { return array::borrow(memory, {4}, Dtype::float32, {std::int64_t{1} << 62}); });
}

TEST(Array, AZeroExtentMakesAnyShapeEmpty) {
  EXPECT_EQ(array::borrow(nullptr, {huge, 0, huge, huge}, Dtype::float32).size(), 0);
  EXPECT_EQ(array::empty({0, huge, huge, huge}, Dtype::float32).size(), 0);
}

TEST(Array, BorrowedMemoryIsReadOnlyUnlessAskedFor) {
  float memory[2] = {};
  const array view = array::borrow(memory, {2}, Dtype::float32);
  EXPECT_FALSE(view.is_writable());
  expect_error("[array] the memory is read-only; borrow it with array::borrow_mut", [&] { (void)view.mutable_bytes(); });
  EXPECT_EQ(array::borrow_mut(memory, {2}, Dtype::float32).mutable_data<float>(), memory);
}

TEST(Array, KnowsItsBytes) {
  const array a = array::empty({2, 3, 4}, Dtype::float16);
  EXPECT_EQ(a.itemsize(), 2);
  EXPECT_EQ(a.nbytes(), 48U);
  EXPECT_EQ(array::empty({0, 3}, Dtype::float64).nbytes(), 0U);
  EXPECT_EQ(array::empty({}, Dtype::int64).nbytes(), 8U);
  const float value = 0;
  EXPECT_EQ(array::borrow(&value, {8}, Dtype::float32, {0}).nbytes(), 32U) << "of its elements, not of its memory";
}

TEST(Array, BorrowsTypedValues) {
  std::vector<float> values = {1, 2, 3, 4, 5, 6};
  const array a = array::borrow(values, {2, 3});
  EXPECT_EQ(a.dtype(), Dtype::float32);
  EXPECT_EQ(a.data<float>(), values.data());
  EXPECT_FALSE(a.is_writable());
  EXPECT_EQ(array::borrow(std::span(values).subspan(2, 2), {2}).data<float>(), values.data() + 2);
  EXPECT_EQ(array::borrow_mut(values, {6}).mutable_data<float>(), values.data());
  const std::uint8_t bytes[] = {1, 2};
  EXPECT_EQ(array::borrow(bytes, {2}).dtype(), Dtype::uint8);
  EXPECT_EQ(array::borrow(std::span<const double>(), {0}).dtype(), Dtype::float64);
  expect_error("[array] 6 values for the 4 elements of shape (2, 2); give one for each element",
               [&] { return array::borrow(values, {2, 2}); });
  expect_error("[array] shape (-6,) has a negative extent; extents are 0 or more", [&] { return array::borrow(values, {-6}); });
}

TEST(Array, ValuesThatWouldBeGoneCannotBeBorrowed) {
  EXPECT_TRUE(BorrowableValues<std::vector<float>&>);
  EXPECT_TRUE(BorrowableValues<const std::vector<float>&>);
  EXPECT_TRUE(BorrowableValues<std::span<const int>>);
  EXPECT_FALSE(BorrowableValues<std::vector<float>>) << "a temporary";
  EXPECT_FALSE(BorrowableValues<std::string&>) << "characters are no numbers";
}

TEST(Array, EveryCppTypeOfANumberHasItsDtype) {
  EXPECT_EQ(dtype_of<bool>(), Dtype::bool_);
  EXPECT_EQ(dtype_of<std::uint8_t>(), Dtype::uint8);
  EXPECT_EQ(dtype_of<std::uint16_t>(), Dtype::uint16);
  EXPECT_EQ(dtype_of<std::uint32_t>(), Dtype::uint32);
  EXPECT_EQ(dtype_of<std::uint64_t>(), Dtype::uint64);
  EXPECT_EQ(dtype_of<std::int8_t>(), Dtype::int8);
  EXPECT_EQ(dtype_of<std::int16_t>(), Dtype::int16);
  EXPECT_EQ(dtype_of<std::int32_t>(), Dtype::int32);
  EXPECT_EQ(dtype_of<long>(), Dtype::int64);
  EXPECT_EQ(dtype_of<long long>(), Dtype::int64);
  EXPECT_EQ(dtype_of<float>(), Dtype::float32);
  EXPECT_EQ(dtype_of<double>(), Dtype::float64);
  EXPECT_EQ(dtype_of<std::byte>(), std::nullopt);
  EXPECT_EQ(dtype_of<char>(), std::nullopt);
}

TEST(Array, HoldsOneTypeOfElement) {
  const array a = array::empty({2}, Dtype::float32);
  EXPECT_TRUE(a.holds<float>());
  EXPECT_TRUE(a.holds<const float>());
  EXPECT_FALSE(a.holds<std::uint32_t>());
  EXPECT_FALSE(a.holds<std::byte>());
  EXPECT_TRUE(array::empty({2}, Dtype::bfloat16).holds<std::uint16_t>()) << "its bits";
  EXPECT_FALSE(array::empty({2}, Dtype::bfloat16).holds<float>());
  EXPECT_FALSE(array::empty({2}, Dtype::uint16).holds<std::int16_t>());
}

#ifndef NDEBUG
TEST(ArrayDeathTest, DataOfAnotherTypeIsAnAssertion) {
  const array a = array::empty({2}, Dtype::float32);
  EXPECT_DEATH((void)a.data<std::int32_t>(), "T is not the type of the elements; use bytes\\(\\)");
  EXPECT_DEATH((void)a.mutable_data<std::int32_t>(), "T is not the type of the elements; use mutable_bytes\\(\\)");
}
#endif

/// A tensor of the test's own, which counts the calls of its deleter.
struct Tensor {
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;
  int deleted = 0;
  DLManagedTensor managed = {};

  Tensor(void* data, std::vector<std::int64_t> extents, std::vector<std::int64_t> steps, DLDataType type,
         DLDeviceType device = kDLCPU)
      : shape(std::move(extents)), strides(std::move(steps)) {
    managed.dl_tensor = {data, {device, 0}, static_cast<int>(shape.size()), type, shape.data(), strides.data(), 0};
    managed.manager_ctx = this;
    managed.deleter = [](DLManagedTensor* self) { ++static_cast<Tensor*>(self->manager_ctx)->deleted; };
  }
};

TEST(DLPack, ImportSharesMemoryAndDeletesWithTheLastCopy) {
  float memory[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  Tensor tensor(memory, {2, 2}, {4, -1}, {kDLFloat, 32, 1});
  tensor.managed.dl_tensor.byte_offset = 4;
  {
    array a = array::from_dlpack(&tensor.managed);
    const array copy = a;
    a = array();
    EXPECT_EQ(copy.data<float>(), memory + 1);
    EXPECT_EQ(copy.strides(), (Strides{16, -4}));
    EXPECT_EQ(copy.dtype(), Dtype::float32);
    EXPECT_TRUE(copy.is_writable());
    EXPECT_EQ(tensor.deleted, 0);
  }
  EXPECT_EQ(tensor.deleted, 1);
}

TEST(DLPack, WithoutStridesATensorIsRowMajor) {
  std::uint16_t memory[6] = {};
  Tensor tensor(memory, {2, 3}, {0, 0}, {kDLBfloat, 16, 1});
  tensor.managed.dl_tensor.strides = nullptr;
  const array a = array::from_dlpack(&tensor.managed);
  EXPECT_EQ(a.dtype(), Dtype::bfloat16);
  EXPECT_EQ(a.strides(), (Strides{6, 2}));
}

TEST(DLPack, ARefusedTensorStaysTheCallers) {
  float memory[4] = {};
  Tensor gpu(memory, {4}, {1}, {kDLFloat, 32, 1}, kDLCUDA);
  expect_error("[array] DLPack device type 2 is not the CPU (1); copy the tensor to the CPU",
               [&] { return array::from_dlpack(&gpu.managed); });
  Tensor complex(memory, {2}, {1}, {kDLComplex, 64, 1});
  expect_error(
      "[array] DLPack type (code 5, 64 bits, 1 lanes) is not supported; convert the tensor to a type that gqmm::Dtype has",
      [&] { return array::from_dlpack(&complex.managed); });
  Tensor vectors(memory, {1}, {1}, {kDLFloat, 32, 4});
  expect_error(
      "[array] DLPack type (code 2, 32 bits, 4 lanes) is not supported; convert the tensor to a type that gqmm::Dtype has",
      [&] { return array::from_dlpack(&vectors.managed); });
  Tensor null(nullptr, {4}, {1}, {kDLFloat, 32, 1});
  expect_error("[array] null data for shape (4,); pass the address of its elements",
               [&] { return array::from_dlpack(&null.managed); });
  Tensor negative(memory, {-4}, {1}, {kDLFloat, 32, 1});
  expect_error("[array] shape (-4,) has a negative extent; extents are 0 or more",
               [&] { return array::from_dlpack(&negative.managed); });
  Tensor far(memory, {4}, {std::int64_t{1} << 62}, {kDLFloat, 32, 1});
  expect_error(
      "[array] a DLPack stride of 4611686018427387904 elements of 4 bytes exceeds 64 bits; copy the tensor to contiguous memory",
      [&] { return array::from_dlpack(&far.managed); });
  for (const Tensor* tensor : {&gpu, &complex, &vectors, &null, &negative, &far}) {
    EXPECT_EQ(tensor->deleted, 0);
  }
}

TEST(DLPack, EveryTypeSurvivesARoundTrip) {
  for (int number = 0; number <= static_cast<int>(Dtype::float64); ++number) {
    const auto dtype = static_cast<Dtype>(number);
    const array a = array::empty({2, 3}, dtype);
    const array back = array::from_dlpack(a.to_dlpack());
    EXPECT_EQ(back.dtype(), dtype);
    EXPECT_EQ(back.shape(), a.shape());
    EXPECT_EQ(back.strides(), a.strides());
    EXPECT_EQ(back.bytes(), a.bytes());
  }
}

TEST(DLPack, AnExportedTensorKeepsTheMemoryAlive) {
  auto owner = std::make_shared<std::vector<float>>(4, 1.5F);
  const std::weak_ptr<const void> watch = owner;
  float* memory = owner->data();
  DLManagedTensor* tensor = array::borrow(memory, {2, 2}, Dtype::float32, {4, 8}, std::move(owner)).to_dlpack();
  EXPECT_FALSE(watch.expired());
  EXPECT_EQ(static_cast<float*>(tensor->dl_tensor.data)[3], 1.5F);
  EXPECT_EQ(tensor->dl_tensor.strides[1], 2);
  tensor->deleter(tensor);
  EXPECT_TRUE(watch.expired());
}

TEST(DLPack, StridesBetweenElementsCannotBeExported) {
  const std::byte memory[16] = {};
  expect_error("[array] a stride of 5 bytes is no multiple of the element size 4; DLPack cannot express it; copy the array first",
               [&] { return array::borrow(memory, {2}, Dtype::float32, {5}).to_dlpack(); });
  DLManagedTensor* tensor = array::borrow(memory, {1}, Dtype::float32, {5}).to_dlpack();  // no second element, no stride
  tensor->deleter(tensor);
}

}  // namespace
}  // namespace gqmm::test
