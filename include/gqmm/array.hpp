// gqmm::array: a typed, strided view of memory that is borrowed or shared. It carries operands into the library and results out
// of it. It does no arithmetic.
#pragma once

#include <gqmm/export.hpp>
#include <gqmm/shape.hpp>

#include <cassert>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <ranges>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

struct DLManagedTensor;  // <dlpack/dlpack.h>

namespace gqmm {

enum class Dtype : std::uint8_t {
  bool_,
  uint8,
  uint16,
  uint32,
  uint64,
  int8,
  int16,
  int32,
  int64,
  float16,
  bfloat16,
  float32,
  float64,
};

/// Bytes of one element.
[[nodiscard]] GQMM_API std::size_t size_of(Dtype dtype) noexcept;
/// NumPy's name of the type, for example "float32" ("bool" for bool_).
[[nodiscard]] GQMM_API std::string_view name_of(Dtype dtype) noexcept;
/// Whether the type is a signed or unsigned integer. bool_ is not.
[[nodiscard]] GQMM_API bool is_integer(Dtype dtype) noexcept;
/// Whether operators compute in the type: float16, bfloat16 or float32.
[[nodiscard]] GQMM_API bool is_compute_float(Dtype dtype) noexcept;

/// The Dtype of a C++ type: bool, the integers, float and double. It is nullopt for any other type. C++20 has no float types of
/// 16 bits.
template <class T>
[[nodiscard]] constexpr std::optional<Dtype> dtype_of() noexcept {
  constexpr int size_class = sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3;
  if constexpr (std::same_as<T, bool>) {
    return Dtype::bool_;
  } else if constexpr (std::same_as<T, float>) {
    return Dtype::float32;
  } else if constexpr (std::same_as<T, double>) {
    return Dtype::float64;
  } else if constexpr (std::integral<T> && !std::same_as<T, char> && !std::same_as<T, wchar_t> && !std::same_as<T, char8_t> &&
                       !std::same_as<T, char16_t> && !std::same_as<T, char32_t> && sizeof(T) <= 8) {
    constexpr auto first = static_cast<int>(std::is_unsigned_v<T> ? Dtype::uint8 : Dtype::int8);
    return static_cast<Dtype>(first + size_class);
  } else {
    return std::nullopt;
  }
}

/// Contiguous values of a type that has a Dtype. They must outlive the expression: a std::span, or an lvalue of a std::vector or
/// of an array.
template <class Values>
concept BorrowableValues = std::ranges::contiguous_range<Values> && std::ranges::borrowed_range<Values> &&
                           std::ranges::sized_range<Values> && dtype_of<std::ranges::range_value_t<Values>>().has_value();

/// The number of elements of an array with this shape.
[[nodiscard]] GQMM_API std::int64_t element_count(const Shape& shape) noexcept;
/// The strides, in bytes, of a row-major array with this shape and `itemsize` bytes per element.
[[nodiscard]] GQMM_API Strides row_major_strides(const Shape& shape, std::size_t itemsize);
/// The shape as text: "(2, 3, 4)", "(5,)", "()".
[[nodiscard]] GQMM_API std::string to_string(const Shape& shape);

/// A typed, strided view of memory. Somebody else owns the memory, or the copies of the array share it. Several threads may use
/// one array at the same time as long as none of them assigns to it or writes its elements.
class GQMM_API array {
 public:
  /// Makes an empty float32 array of shape (0,).
  array();

  /// Makes an array with row-major memory of its own. The memory is aligned to 64 bytes, and its contents are uninitialised.
  /// Throws std::invalid_argument on a negative extent or a size that does not fit 64 bits, and std::bad_alloc.
  [[nodiscard]] static array empty(Shape shape, Dtype dtype);

  /// Makes a read-only view of memory that the caller owns, or that `owner` keeps alive. `data` may have any alignment. Without
  /// strides, the memory is row-major. Throws std::invalid_argument
  /// - on a negative extent,
  /// - if the number of strides is not the rank,
  /// - if `data` is null and the shape is not empty.
  [[nodiscard]] static array borrow(const void* data, Shape shape, Dtype dtype, Strides strides = {},
                                    std::shared_ptr<const void> owner = {});
  /// The same, but writable: for GatherQmmOptions::out.
  [[nodiscard]] static array borrow_mut(void* data, Shape shape, Dtype dtype, Strides strides = {},
                                        std::shared_ptr<const void> owner = {});
  /// The same for row-major values, whose C++ type decides the Dtype. Also throws std::invalid_argument if the number of values
  /// is not the number of elements of the shape.
  template <BorrowableValues Values>
  [[nodiscard]] static array borrow(Values&& values, Shape shape) {
    check_value_count(std::ranges::size(values), shape);
    return borrow(std::ranges::data(values), std::move(shape), *dtype_of<std::ranges::range_value_t<Values>>());
  }
  /// The same, but writable.
  template <BorrowableValues Values>
    requires(!std::is_const_v<std::remove_reference_t<std::ranges::range_reference_t<Values>>>)
  [[nodiscard]] static array borrow_mut(Values&& values, Shape shape) {
    check_value_count(std::ranges::size(values), shape);
    return borrow_mut(std::ranges::data(values), std::move(shape), *dtype_of<std::ranges::range_value_t<Values>>());
  }

  /// Takes over a CPU tensor. Its deleter runs when the last copy of the array is destroyed. Throws std::invalid_argument for
  /// another device or for an element type without a Dtype; the tensor then still belongs to the caller.
  [[nodiscard]] static array from_dlpack(DLManagedTensor* tensor);
  /// Makes a new tensor that shares this array's memory. The consumer must call its deleter. Throws std::invalid_argument if a
  /// stride is not a multiple of the element size.
  [[nodiscard]] DLManagedTensor* to_dlpack() const;

  /// The type of the elements.
  [[nodiscard]] Dtype dtype() const noexcept { return dtype_; }
  /// The extents, outermost dimension first.
  [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
  /// The distances in bytes between neighbours along each dimension.
  [[nodiscard]] const Strides& strides() const noexcept { return strides_; }
  /// The number of dimensions.
  [[nodiscard]] int rank() const noexcept { return static_cast<int>(shape_.size()); }
  /// The extent of dimension `axis`. Negative axes count from the end.
  [[nodiscard]] std::int64_t dim(int axis) const noexcept { return shape_[position(axis)]; }
  /// The distance in bytes between neighbours along dimension `axis`. Negative axes count from the end.
  [[nodiscard]] std::int64_t stride(int axis) const noexcept { return strides_[position(axis)]; }
  /// The number of elements.
  [[nodiscard]] std::int64_t size() const noexcept { return element_count(shape_); }
  /// The number of bytes of one element. It is signed, as strides are.
  [[nodiscard]] std::int64_t itemsize() const noexcept { return static_cast<std::int64_t>(size_of(dtype_)); }
  /// The number of bytes of all elements, without gaps between them.
  [[nodiscard]] std::size_t nbytes() const noexcept { return static_cast<std::size_t>(size() * itemsize()); }
  /// Whether the elements lie in row-major order without gaps.
  [[nodiscard]] bool is_row_major() const noexcept;
  /// Whether mutable_bytes() may be called.
  [[nodiscard]] bool is_writable() const noexcept { return writable_; }

  /// Whether elements may be read as T: dtype_of T is the array's type. Half types have no C++20 type; they may be read as any T
  /// of 16 bits.
  template <class T>
  [[nodiscard]] bool holds() const noexcept {
    return (dtype_ == Dtype::float16 || dtype_ == Dtype::bfloat16) ? sizeof(T) == 2 : dtype_of<std::remove_cv_t<T>>() == dtype_;
  }
  /// The address of the element at index (0, 0, …).
  [[nodiscard]] const std::byte* bytes() const noexcept { return data_; }
  /// The same address as a pointer to T. T must be a type that the array holds; debug builds assert it. To read the elements as
  /// bytes, use bytes().
  template <class T>
  [[nodiscard]] const T* data() const noexcept {
    assert(holds<T>() && "array::data: T is not the type of the elements; use bytes() to read them as bytes");
    return reinterpret_cast<const T*>(data_);
  }
  /// The same address for writing. Throws std::invalid_argument if the memory is read-only.
  [[nodiscard]] std::byte* mutable_bytes() const;
  /// The same address as a pointer to T. T is checked as in data().
  template <class T>
  [[nodiscard]] T* mutable_data() const {
    assert(holds<T>() && "array::mutable_data: T is not the type of the elements; use mutable_bytes() to write bytes");
    return reinterpret_cast<T*>(mutable_bytes());
  }
  /// The object that keeps the memory alive; null if the caller does.
  [[nodiscard]] const std::shared_ptr<const void>& owner() const noexcept { return owner_; }

 private:
  /// Throws std::invalid_argument if the shape does not have `count` elements.
  static void check_value_count(std::size_t count, const Shape& shape);
  array(std::byte* data, Shape shape, Dtype dtype, Strides strides, std::shared_ptr<const void> owner, bool writable);
  [[nodiscard]] std::size_t position(int axis) const noexcept {
    return static_cast<std::size_t>(axis < 0 ? axis + rank() : axis);
  }

  std::byte* data_ = nullptr;
  Shape shape_;
  Strides strides_;
  std::shared_ptr<const void> owner_;
  Dtype dtype_ = Dtype::float32;
  bool writable_ = false;
};

}  // namespace gqmm
