// Memory that a thread keeps between calls.
#pragma once

#include <cstddef>
#include <new>

namespace gqmm::cpu {

/// Grows on demand, aligned to a cache line, contents undefined. Larger buffers than `keep` bytes are returned by release().
class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { free(); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class T>
  T* take(std::size_t count) {
    const std::size_t bytes = count * sizeof(T);
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

}  // namespace gqmm::cpu
