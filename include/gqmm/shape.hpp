// Shape and Strides: one number for each dimension of an array.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <utility>

namespace gqmm {

/// A sequence of numbers with the part of the interface of std::vector<std::int64_t> that shapes need. Up to `inline_capacity`
/// numbers lie in the object itself, so the shape of an ordinary array needs no heap memory. More numbers lie on the heap.
/// Functions that grow the sequence throw std::bad_alloc.
class Dimensions {
 public:
  ///@{
  /// A type that the standard library expects of a container.
  using value_type = std::int64_t;
  using size_type = std::size_t;
  using difference_type = std::ptrdiff_t;
  using reference = std::int64_t&;
  using const_reference = const std::int64_t&;
  using iterator = std::int64_t*;
  using const_iterator = const std::int64_t*;
  ///@}

  /// Up to this many numbers need no heap memory.
  static constexpr std::size_t inline_capacity = 6;

  Dimensions() noexcept = default;
  /// Makes `count` copies of the number `value`.
  explicit Dimensions(std::size_t count, std::int64_t value = 0) { resize(count, value); }
  /// Copies the numbers of a list: Shape{2, 3}.
  Dimensions(std::initializer_list<std::int64_t> values) : Dimensions(values.begin(), values.end()) {}
  /// Copies the numbers from `first` up to `last`.
  template <std::forward_iterator Iterator>
  Dimensions(Iterator first, Iterator last) {
    assign(first, last);
  }
  /// Copies the numbers of `other`.
  Dimensions(const Dimensions& other) : Dimensions(other.begin(), other.end()) {}
  /// Moves the numbers; `other` is empty afterwards.
  Dimensions(Dimensions&& other) noexcept { take(other); }
  /// Copies the numbers of `other`.
  Dimensions& operator=(const Dimensions& other) {
    if (this != &other) {
      assign(other.begin(), other.end());
    }
    return *this;
  }
  /// Moves the numbers; `other` is empty afterwards.
  Dimensions& operator=(Dimensions&& other) noexcept {
    if (this != &other) {
      release();
      take(other);
    }
    return *this;
  }
  ~Dimensions() { release(); }

  ///@{
  /// Access to the numbers as in std::vector. Positions are not checked.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] std::int64_t* data() noexcept { return is_inline() ? values_ : heap_; }
  [[nodiscard]] const std::int64_t* data() const noexcept { return is_inline() ? values_ : heap_; }
  [[nodiscard]] iterator begin() noexcept { return data(); }
  [[nodiscard]] const_iterator begin() const noexcept { return data(); }
  [[nodiscard]] iterator end() noexcept { return data() + size_; }
  [[nodiscard]] const_iterator end() const noexcept { return data() + size_; }
  [[nodiscard]] std::int64_t& operator[](std::size_t axis) noexcept { return data()[axis]; }
  [[nodiscard]] const std::int64_t& operator[](std::size_t axis) const noexcept { return data()[axis]; }
  [[nodiscard]] std::int64_t& front() noexcept { return data()[0]; }
  [[nodiscard]] const std::int64_t& front() const noexcept { return data()[0]; }
  [[nodiscard]] std::int64_t& back() noexcept { return data()[size_ - 1]; }
  [[nodiscard]] const std::int64_t& back() const noexcept { return data()[size_ - 1]; }
  ///@}

  /// Makes room for `count` numbers.
  void reserve(std::size_t count) {
    if (count <= capacity_) {
      return;
    }
    auto* const larger = new std::int64_t[count];
    std::copy(begin(), end(), larger);
    release();
    heap_ = larger;
    capacity_ = count;
  }
  /// Changes the number of numbers to `count`; new ones are `value`.
  void resize(std::size_t count, std::int64_t value = 0) {
    grow_to(count);
    if (count > size_) {
      std::fill(data() + size_, data() + count, value);
    }
    size_ = count;
  }
  /// Removes every number.
  void clear() noexcept { size_ = 0; }
  /// Appends a number.
  void push_back(std::int64_t value) {
    grow_to(size_ + 1);
    data()[size_++] = value;
  }
  /// Removes the last number; there must be one.
  void pop_back() noexcept { --size_; }
  /// Replaces the numbers. The new numbers must not be elements of this object.
  template <std::forward_iterator Iterator>
  void assign(Iterator first, Iterator last) {
    const auto count = static_cast<std::size_t>(std::distance(first, last));
    reserve(count);
    std::copy(first, last, data());
    size_ = count;
  }
  /// Inserts `values` in front of `position`. Returns the position of the first one.
  iterator insert(const_iterator position, std::initializer_list<std::int64_t> values) {
    const std::ptrdiff_t at = position - begin();
    resize(size_ + values.size());
    std::move_backward(begin() + at, end() - values.size(), end());
    std::copy(values.begin(), values.end(), begin() + at);
    return begin() + at;
  }
  /// Inserts one number in front of `position`. Returns its position.
  iterator insert(const_iterator position, std::int64_t value) { return insert(position, {value}); }
  /// Removes the number at `position`. Returns the position of the number after it.
  iterator erase(const_iterator position) noexcept {
    const iterator at = begin() + (position - begin());
    std::copy(at + 1, end(), at);
    --size_;
    return at;
  }

  /// Whether both have the same numbers in the same order.
  friend bool operator==(const Dimensions& a, const Dimensions& b) noexcept {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }

 private:
  [[nodiscard]] bool is_inline() const noexcept { return capacity_ == inline_capacity; }
  /// Makes room for `count` numbers. If that takes heap memory, the capacity at least doubles, so that push_back stays cheap.
  void grow_to(std::size_t count) {
    if (count > capacity_) {
      reserve(std::max(count, 2 * capacity_));
    }
  }
  void release() noexcept {
    if (!is_inline()) {
      delete[] heap_;
      capacity_ = inline_capacity;
    }
  }
  /// Takes the numbers of `other`, which is empty then. This object must have no heap memory.
  void take(Dimensions& other) noexcept {
    if (other.is_inline()) {
      std::memcpy(values_, other.values_, sizeof values_);
    } else {
      heap_ = std::exchange(other.heap_, nullptr);
    }
    size_ = std::exchange(other.size_, 0);
    capacity_ = std::exchange(other.capacity_, inline_capacity);
  }

  std::size_t size_ = 0;
  std::size_t capacity_ = inline_capacity;  // equal to inline_capacity if the numbers lie in values_
  union {
    std::int64_t values_[inline_capacity] = {};
    std::int64_t* heap_;
  };
};

/// The number of elements along each dimension, outermost dimension first.
using Shape = Dimensions;
/// The distances in BYTES between neighbours along each dimension. They may be negative, zero, or odd.
using Strides = Dimensions;

}  // namespace gqmm
