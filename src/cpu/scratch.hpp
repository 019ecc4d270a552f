// Memory that a thread keeps between calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace gqmm::cpu {

/// Grows on demand, aligned to a cache line, contents undefined. Larger buffers than `keep` bytes are returned by release().
class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { free(); }
  Scratch(Scratch&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Scratch& operator=(Scratch&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  /// Room for `rows` times `per_row` elements. Throws std::bad_alloc, also for more bytes than can be counted.
  template <class T>
  T* take(std::int64_t rows, std::int64_t per_row = 1) {
    std::size_t bytes = 0;
    if (__builtin_mul_overflow(rows, per_row, &bytes) || __builtin_mul_overflow(bytes, sizeof(T), &bytes)) {
      throw std::bad_array_new_length();
    }
    if (bytes > size_) {
      free();
      data_ = ::operator new(bytes, alignment);
      size_ = bytes;
    }
    return static_cast<T*>(data_);
  }
  void release(std::size_t keep) {
    if (size_ > keep) {
      free();
    }
  }

 private:
  static constexpr std::align_val_t alignment{64};
  void free() {
    ::operator delete(data_, alignment);
    data_ = nullptr;
    size_ = 0;
  }
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

/// The T that the calling thread keeps between calls, or nullptr once the thread has destroyed it: destructors of static objects,
/// or of the thread's other objects, may compute after that.
template <class T>
T* kept_by_thread() {
  static thread_local bool destroyed = false;
  struct Keeper {
    T value;
    ~Keeper() { destroyed = true; }
  };
  if (destroyed) {
    return nullptr;
  }
  static thread_local Keeper keeper;
  return &keeper.value;
}

}  // namespace gqmm::cpu
