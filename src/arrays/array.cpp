#include "arrays/memory.hpp"

#include <gqmm/array.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

namespace gqmm {

using namespace detail;

namespace {

struct DtypeInfo {
  std::string_view name;
  std::size_t size;
};

constexpr DtypeInfo dtype_table[] = {
    {"bool", 1},  {"uint8", 1}, {"uint16", 2},  {"uint32", 4},   {"uint64", 8},  {"int8", 1},    {"int16", 2},
    {"int32", 4}, {"int64", 8}, {"float16", 2}, {"bfloat16", 2}, {"float32", 4}, {"float64", 8},
};

const DtypeInfo& info(Dtype dtype) { return dtype_table[static_cast<std::size_t>(dtype)]; }

/// Throws std::invalid_argument if the elements, laid out row-major, do not fit the address space. All other code relies on this
/// check.
void check_shape(const Shape& shape, std::size_t itemsize) {
  for (const std::int64_t extent : shape) {
    if (extent < 0) {
      throw std::invalid_argument(fmt::format("[array] shape {} has a negative extent; extents are 0 or more", to_string(shape)));
    }
  }
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) {
    return;
  }
  auto bytes = static_cast<std::int64_t>(itemsize);
  for (const std::int64_t extent : shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) {
      throw std::invalid_argument(
          fmt::format("[array] shape {} of {} bytes per element exceeds 64 bits; use a smaller one", to_string(shape), itemsize));
    }
  }
}

void check_layout(const void* data, const Shape& shape, const Strides& strides) {
  if (strides.size() != shape.size()) {
    throw std::invalid_argument(fmt::format("[array] {} strides for the {} dimensions of shape {}; give one per dimension",
                                            strides.size(), shape.size(), to_string(shape)));
  }
  if (element_count(shape) == 0) {
    return;
  }
  if (data == nullptr) {
    throw std::invalid_argument(
        fmt::format("[array] null data for shape {}; pass the address of its elements", to_string(shape)));
  }
  std::int64_t reach = 0;  // at most the bytes between the furthest elements
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    std::int64_t along = 0;
    if (__builtin_mul_overflow(shape[axis] - 1, strides[axis], &along) || along == std::numeric_limits<std::int64_t>::min() ||
        __builtin_add_overflow(reach, std::abs(along), &reach)) {
      throw std::invalid_argument(
          fmt::format("[array] a stride of {} bytes along {} elements exceeds 64 bits; give strides within the memory, in bytes",
                      strides[axis], shape[axis]));
    }
  }
}

}  // namespace

std::size_t size_of(Dtype dtype) noexcept { return info(dtype).size; }

std::string_view name_of(Dtype dtype) noexcept { return info(dtype).name; }

bool is_integer(Dtype dtype) noexcept { return dtype >= Dtype::uint8 && dtype <= Dtype::int64; }

bool is_compute_float(Dtype dtype) noexcept {
  return dtype == Dtype::float16 || dtype == Dtype::bfloat16 || dtype == Dtype::float32;
}

std::int64_t element_count(const Shape& shape) noexcept {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) {
    return 0;  // a zero extent makes the count zero, whatever the other extents multiply to
  }
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) {
    count *= extent;
  }
  return count;
}

Strides row_major_strides(const Shape& shape, std::size_t itemsize) {
  Strides strides(shape.size());
  auto step = static_cast<std::int64_t>(itemsize);
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = step;
    // This can only overflow for an array without elements, whose strides mean nothing.
    step = static_cast<std::int64_t>(static_cast<std::uint64_t>(step) * static_cast<std::uint64_t>(shape[axis]));
  }
  return strides;
}

std::string to_string(const Shape& shape) {
  std::string text = "(";
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    text += fmt::format("{}{}", axis == 0 ? "" : ", ", shape[axis]);
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

array::array() : shape_{0}, strides_{4}, writable_(true) {}

array::array(std::byte* data, Shape shape, Dtype dtype, Strides strides, std::shared_ptr<const void> owner, bool writable)
    : data_(data),
      shape_(std::move(shape)),
      strides_(std::move(strides)),
      owner_(std::move(owner)),
      dtype_(dtype),
      writable_(writable) {}

array array::empty(Shape shape, Dtype dtype) {
  check_shape(shape, size_of(dtype));
  Strides strides = row_major_strides(shape, size_of(dtype));
  const std::size_t bytes = static_cast<std::size_t>(element_count(shape)) * size_of(dtype);
  std::shared_ptr<void> memory = allocate_shared(bytes);
  auto* data = static_cast<std::byte*>(memory.get());
  return {data, std::move(shape), dtype, std::move(strides), std::move(memory), true};
}

array array::borrow(const void* data, Shape shape, Dtype dtype, Strides strides, std::shared_ptr<const void> owner) {
  array view = borrow_mut(const_cast<void*>(data), std::move(shape), dtype, std::move(strides), std::move(owner));
  view.writable_ = false;
  return view;
}

array array::borrow_mut(void* data, Shape shape, Dtype dtype, Strides strides, std::shared_ptr<const void> owner) {
  check_shape(shape, size_of(dtype));
  if (strides.empty()) {
    strides = row_major_strides(shape, size_of(dtype));
  }
  check_layout(data, shape, strides);
  return {static_cast<std::byte*>(data), std::move(shape), dtype, std::move(strides), std::move(owner), true};
}

void array::check_value_count(std::size_t count, const Shape& shape) {
  check_shape(shape, 1);
  if (static_cast<std::int64_t>(count) != element_count(shape)) {
    throw std::invalid_argument(fmt::format("[array] {} values for the {} elements of shape {}; give one for each element", count,
                                            element_count(shape), to_string(shape)));
  }
}

bool array::is_row_major() const noexcept {
  std::int64_t step = itemsize();
  for (int axis = rank() - 1; axis >= 0; --axis) {
    if (dim(axis) != 1 && stride(axis) != step) {
      return size() == 0;
    }
    step *= dim(axis);
  }
  return true;
}

std::byte* array::mutable_bytes() const {
  if (!writable_) {
    throw std::invalid_argument("[array] the memory is read-only; borrow it with array::borrow_mut");
  }
  return data_;
}

}  // namespace gqmm
