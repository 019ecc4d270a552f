// The `out` option: results in the caller's memory, and what may not be passed.
#include "api_test_support.hpp"

namespace gqmm::test {
namespace {

class Output : public testing::Test {
 protected:
  void expect(const std::string& message) {
    expect_error(message, [&] { gather_qmm(x, weights, weights.options); });
  }
  array x = Generator(1).normal({3, 64});
  Weights weights = affine_weights(2, {2}, 5, 64);
  std::optional<array>& out = weights.options.out;
};

TEST_F(Output, ReceivesTheResult) {
  const array expected = gather_qmm(x, weights, weights.options);
  out = array::empty({2, 3, 5}, Dtype::float32);
  const array result = gather_qmm(x, weights, weights.options);
  EXPECT_EQ(result.bytes(), out->bytes());
  EXPECT_EQ(memory_of(*out), memory_of(expected));
}

TEST_F(Output, MayLieAtAnOddAddress) {
  const array expected = gather_qmm(x, weights, weights.options);
  std::vector<std::byte> memory(1 + 30 * 4);
  out = array::borrow_mut(memory.data() + 1, {2, 3, 5}, Dtype::float32);
  EXPECT_EQ(memory_of(gather_qmm(x, weights, weights.options)), memory_of(expected));
}

TEST_F(Output, MustHaveTheShapeAndTypeOfTheResult) {
  out = array::empty({2, 3, 4}, Dtype::float32);
  expect("[gather_qmm] out is float32 (2, 3, 4) but the result is float32 (2, 3, 5); allocate it so");
  out = array::empty({2, 3, 5}, Dtype::float16);
  expect("[gather_qmm] out is float16 (2, 3, 5) but the result is float32 (2, 3, 5); allocate it so");
}

TEST_F(Output, MustBeRowMajorAndWritable) {
  const array memory = array::empty({2, 3, 10}, Dtype::float32);
  out = array::borrow_mut(memory.mutable_bytes(), {2, 3, 5}, Dtype::float32, {120, 40, 8});
  expect("[gather_qmm] out of shape (2, 3, 5) is not row-major; pass contiguous memory");
  out = array::borrow(memory.bytes(), {2, 3, 5}, Dtype::float32);
  expect("[gather_qmm] out is read-only; make it with array::empty or array::borrow_mut");
}

TEST_F(Output, MayTouchButNotOverlapAnOperand) {
  weights.options.lhs_indices = int64s({2}, {0, 0});
  weights.options.rhs_indices = int64s({2}, {1, 0});
  const std::pair<std::string, array*> operands[] = {{"x", &x},
                                                     {"w", &weights.w},
                                                     {"scales", &weights.scales},
                                                     {"biases", &*weights.biases},
                                                     {"lhs_indices", &*weights.options.lhs_indices},
                                                     {"rhs_indices", &*weights.options.rhs_indices}};
  const std::int64_t result_bytes = 2 * 3 * 5 * 4;
  for (const auto& [name, operand] : operands) {
    // | room for a result | operand | room for a result |
    const array original = *operand;
    const std::int64_t bytes = original.size() * original.itemsize();
    const array memory = array::empty({bytes + 2 * result_bytes}, Dtype::uint8);
    std::memcpy(memory.mutable_bytes() + result_bytes, original.bytes(), static_cast<std::size_t>(bytes));
    *operand = array::borrow(memory.bytes() + result_bytes, original.shape(), original.dtype());
    const auto put_out_at = [&, room = memory](std::int64_t offset) {
      out = array::borrow_mut(room.mutable_bytes() + offset, {2, 3, 5}, Dtype::float32);
    };
    put_out_at(0);
    EXPECT_NO_THROW(gather_qmm(x, weights, weights.options)) << name;
    put_out_at(result_bytes + bytes);
    EXPECT_NO_THROW(gather_qmm(x, weights, weights.options)) << name;
    const std::string message = "[gather_qmm] out overlaps the memory of " + name + "; pass memory of its own";
    put_out_at(1);
    expect(message);
    put_out_at(result_bytes + bytes - 1);
    expect(message);
    *operand = original;
  }
}

TEST_F(Output, MustNotOverlapAnOperandThatRunsBackwards) {
  // The first byte of these rows is not that of element (0, 0).
  const array memory = x;
  x = array::borrow(memory.bytes() + 2 * 256, {3, 64}, Dtype::float32, {-256, 4}, memory.owner());
  out = array::borrow_mut(memory.mutable_bytes(), {2, 3, 5}, Dtype::float32);
  expect("[gather_qmm] out overlaps the memory of x; pass memory of its own");
}

TEST_F(Output, IsLeftAloneByACallThatFails) {
  out = floats({2, 3, 5}, std::vector<float>(30, 7.0F));
  weights.options.lhs_indices = int64s({2}, {0, 1});
  EXPECT_THROW(gather_qmm(x, weights, weights.options), std::invalid_argument);
  EXPECT_EQ(values_of(*out), std::vector<float>(30, 7.0F));
}

TEST_F(Output, WorksForGatherMm) {
  const array a = floats({2, 2}, {1, 2, 3, 4});
  const array result = array::empty({2, 2}, Dtype::float32);
  gather_mm(a, a, {.out = result});
  EXPECT_EQ(values_of(result), (std::vector<float>{7, 10, 15, 22}));
  expect_error("[gather_mm] out overlaps the memory of a; pass memory of its own", [&] { gather_mm(a, result, {.out = a}); });
}

}  // namespace
}  // namespace gqmm::test
