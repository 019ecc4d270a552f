// gqmm::array: a typed, strided view of memory, borrowed or shared. It carries operands into the library and results out of
// it; it does no arithmetic.
#pragma once

#include <gqmm/export.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

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
/// NumPy's name of the type, e.g. "float32" ("bool" for bool_).
[[nodiscard]] GQMM_API std::string_view name_of(Dtype dtype) noexcept;
/// Signed or unsigned integers; not bool.
[[nodiscard]] GQMM_API bool is_integer(Dtype dtype) noexcept;
/// The types that the operators compute in: float16, bfloat16, float32.
[[nodiscard]] GQMM_API bool is_compute_float(Dtype dtype) noexcept;

/// Element counts, outermost dimension first.
using Shape = std::vector<std::int64_t>;
/// Distances in BYTES between neighbours along each dimension; may be negative, zero, or odd.
using Strides = std::vector<std::int64_t>;

[[nodiscard]] GQMM_API std::int64_t element_count(const Shape& shape) noexcept;
[[nodiscard]] GQMM_API Strides row_major_strides(const Shape& shape, std::size_t itemsize);
/// "(2, 3, 4)", "(5,)", "()".
[[nodiscard]] GQMM_API std::string to_string(const Shape& shape);

class GQMM_API array {
 public:
  /// An empty float32 array of shape (0,).
  array();

  /// Uninitialised, row-major memory, aligned to 64 bytes and owned by the array.
  [[nodiscard]] static array empty(Shape shape, Dtype dtype);

  /// A read-only view of memory that the caller owns, or that `owner` keeps alive. `data` may have any alignment. Without
  /// strides the memory is row-major. Throws std::invalid_argument on a negative extent, a stride count other than the rank,
  /// or null data for a non-empty shape.
  [[nodiscard]] static array borrow(const void* data, Shape shape, Dtype dtype, Strides strides = {},
                                    std::shared_ptr<const void> owner = {});
  /// The same, writable: for GatherQmmOptions::out.
  [[nodiscard]] static array borrow_mut(void* data, Shape shape, Dtype dtype, Strides strides = {},
                                        std::shared_ptr<const void> owner = {});

  /// Takes over a CPU tensor (its deleter runs with the last copy of the array). Throws std::invalid_argument for another
  /// device or an element type without a Dtype; the tensor then stays the caller's.
  [[nodiscard]] static array from_dlpack(DLManagedTensor* tensor);
  /// A new tensor that shares this array's memory; the consumer calls its deleter. Throws std::invalid_argument if a stride is
  /// not a multiple of the element size.
  [[nodiscard]] DLManagedTensor* to_dlpack() const;

  [[nodiscard]] Dtype dtype() const noexcept { return dtype_; }
  [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
  [[nodiscard]] const Strides& strides() const noexcept { return strides_; }
  [[nodiscard]] int rank() const noexcept { return static_cast<int>(shape_.size()); }
  /// Extent of dimension `axis`; negative axes count from the end.
  [[nodiscard]] std::int64_t dim(int axis) const noexcept { return shape_[position(axis)]; }
  [[nodiscard]] std::int64_t stride(int axis) const noexcept { return strides_[position(axis)]; }
  /// Number of elements.
  [[nodiscard]] std::int64_t size() const noexcept { return element_count(shape_); }
  [[nodiscard]] bool is_row_major() const noexcept;
  [[nodiscard]] bool is_writable() const noexcept { return writable_; }

  /// Address of the element at index (0, 0, …).
  [[nodiscard]] const std::byte* bytes() const noexcept { return data_; }
  template <class T>
  [[nodiscard]] const T* data() const noexcept {
    return reinterpret_cast<const T*>(data_);
  }
  /// Throws std::invalid_argument if the memory is read-only.
  [[nodiscard]] std::byte* mutable_bytes() const;
  template <class T>
  [[nodiscard]] T* mutable_data() const {
    return reinterpret_cast<T*>(mutable_bytes());
  }
  [[nodiscard]] const std::shared_ptr<const void>& owner() const noexcept { return owner_; }

 private:
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
