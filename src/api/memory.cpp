#include "api/memory.hpp"

#include <algorithm>
#include <mutex>
#include <new>
#include <vector>

namespace gqmm {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool recycle = false;  // a recycled block would hide a use after its end
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool recycle = false;
#else
constexpr bool recycle = true;
#endif
#else
constexpr bool recycle = true;
#endif

constexpr std::align_val_t alignment{64};
constexpr std::size_t large = std::size_t{256} << 10;  // below, malloc recycles by itself
constexpr std::size_t kept_at_most = std::size_t{64} << 20;

class BlockCache {
 public:
  /// A kept block of `bytes` to twice as many, or nullptr.
  void* take(std::size_t bytes, std::size_t& size) {
    const std::lock_guard lock(mutex_);
    const auto fits = [&](const Block& block) { return block.size >= bytes && block.size / 2 <= bytes; };
    const auto found = std::find_if(blocks_.begin(), blocks_.end(), fits);
    if (found == blocks_.end()) {
      return nullptr;
    }
    void* data = found->data;
    size = found->size;
    kept_ -= size;
    blocks_.erase(found);
    return data;
  }
  /// Keeps a block; the oldest ones make room for it.
  void give(void* data, std::size_t size) noexcept {
    const std::lock_guard lock(mutex_);
    while (!blocks_.empty() && kept_ + size > kept_at_most) {
      kept_ -= blocks_.front().size;
      ::operator delete(blocks_.front().data, alignment);
      blocks_.erase(blocks_.begin());
    }
    try {
      blocks_.push_back({data, size});
      kept_ += size;
    } catch (const std::bad_alloc&) {
      ::operator delete(data, alignment);
    }
  }

 private:
  struct Block {
    void* data;
    std::size_t size;
  };
  std::mutex mutex_;
  std::vector<Block> blocks_;
  std::size_t kept_ = 0;
};

/// Never destroyed: results may outlive every other static object.
BlockCache& cache() {
  static auto* const instance = new BlockCache;
  return *instance;
}

}  // namespace

std::shared_ptr<void> allocate_shared(std::size_t bytes) {
  if (bytes == 0) {
    return nullptr;
  }
  if (!recycle || bytes < large || bytes > kept_at_most) {
    return {::operator new(bytes, alignment), [](void* p) { ::operator delete(p, alignment); }};
  }
  std::size_t size = bytes;
  void* data = cache().take(bytes, size);
  if (data == nullptr) {
    data = ::operator new(bytes, alignment);
  }
  return {data, [size](void* p) { cache().give(p, size); }};
}

}  // namespace gqmm
