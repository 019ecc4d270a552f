#include "api/memory.hpp"

#include "threads/first_use.hpp"
#include "threads/fork.hpp"

#include <algorithm>
#include <mutex>
#include <new>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

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

constexpr std::size_t huge_page = std::size_t{2} << 20;
// From here on, blocks begin at a huge page and ask for them: at most a page in eight is lost, and what streams through packed
// weights walks page tables no more.
constexpr std::size_t worth_huge_pages = 8 * huge_page;
constexpr std::size_t large = std::size_t{256} << 10;  // below, malloc recycles by itself
constexpr std::size_t kept_at_most = std::size_t{64} << 20;

std::align_val_t alignment_of(std::size_t bytes) { return std::align_val_t{bytes >= worth_huge_pages ? huge_page : 64}; }

void* allocate(std::size_t bytes) {
  void* data = ::operator new(bytes, alignment_of(bytes));
#if defined(MADV_HUGEPAGE)
  if (bytes >= worth_huge_pages) {
    static_cast<void>(madvise(data, bytes / huge_page * huge_page, MADV_HUGEPAGE));  // a wish: without it all works as well
  }
#endif
  return data;
}

void release(void* data, std::size_t bytes) { ::operator delete(data, alignment_of(bytes)); }

constinit threads::ForkSafeMutex cache_mutex;
const threads::ForkSafeMutex::Registration cache_registration(cache_mutex);

/// Blocks that results of earlier calls have left. Guarded by cache_mutex.
class BlockCache {
 public:
  /// A kept block of `bytes` to twice as many, or nullptr.
  void* take(std::size_t bytes, std::size_t& size) {
    const std::lock_guard lock(cache_mutex);
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
    const std::lock_guard lock(cache_mutex);
    while (!blocks_.empty() && kept_ + size > kept_at_most) {
      kept_ -= blocks_.front().size;
      release(blocks_.front().data, blocks_.front().size);
      blocks_.erase(blocks_.begin());
    }
    try {
      blocks_.push_back({data, size});
      kept_ += size;
    } catch (const std::bad_alloc&) {
      release(data, size);
    }
  }

 private:
  struct Block {
    void* data;
    std::size_t size;
  };
  std::vector<Block> blocks_;
  std::size_t kept_ = 0;
};

constinit threads::FirstUse<BlockCache> the_cache;

BlockCache& cache() {
  return the_cache.get([] { return BlockCache(); });
}

}  // namespace

std::shared_ptr<void> allocate_shared(std::size_t bytes) {
  if (bytes == 0) {
    return nullptr;
  }
  if (!recycle || bytes < large || bytes > kept_at_most) {
    return {allocate(bytes), [bytes](void* p) { release(p, bytes); }};
  }
  std::size_t size = bytes;
  void* data = cache().take(bytes, size);
  if (data == nullptr) {
    data = allocate(bytes);
  }
  return {data, [size](void* p) { cache().give(p, size); }};
}

}  // namespace gqmm
