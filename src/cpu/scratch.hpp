// Working memory that a thread keeps from one call to the next.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

namespace gqmm::cpu {

/// A buffer that grows on demand. It is aligned to a cache line, and its contents are undefined.
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

  /// Returns room for `rows` times `per_row` elements. Throws std::bad_alloc, also if the number of bytes does not fit its type.
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
  /// Frees the buffer if it has more than `keep` bytes.
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

/// Owns a T that nobody else uses. The constructor takes it from a small cache of the calling thread, or makes a new one. The
/// destructor gives it back to that cache. So two owners on one thread never share memory, and a thread's next call finds what
/// the last one allocated.
template <class T>
class ThreadCached {
 public:
  ThreadCached() : value_(take()) {}
  ~ThreadCached() { give_back(std::move(value_)); }
  ThreadCached(const ThreadCached&) = delete;
  ThreadCached& operator=(const ThreadCached&) = delete;

  T& operator*() const { return *value_; }
  T* operator->() const { return value_.get(); }

 private:
  struct Store {
    std::array<std::unique_ptr<T>, 3> values;
    ~Store() { destroyed() = true; }
  };
  static bool& destroyed() {
    static thread_local bool flag = false;
    return flag;
  }
  /// The thread's cache, or nullptr if the thread has already destroyed it. Destructors of static objects, or of the thread's
  /// other objects, may compute later than that.
  static Store* store() {
    if (destroyed()) {
      return nullptr;
    }
    static thread_local Store kept;
    return &kept;
  }

  static std::unique_ptr<T> take() {
    if (Store* const kept = store()) {
      for (std::unique_ptr<T>& value : kept->values) {
        if (value != nullptr) {
          return std::move(value);
        }
      }
    }
    return std::make_unique<T>();
  }
  /// Puts a value into the thread's cache. If the cache is full, or the thread has destroyed it
  /// already, the value is freed.
  static void give_back(std::unique_ptr<T> given) {
    if (Store* const kept = store()) {
      for (std::unique_ptr<T>& value : kept->values) {
        if (value == nullptr) {
          value = std::move(given);
          return;
        }
      }
    }
  }

  std::unique_ptr<T> value_;
};

}  // namespace gqmm::cpu
