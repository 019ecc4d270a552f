#include "arrays/memory.hpp"

#include "threads/first_use.hpp"
#include "threads/fork.hpp"
#include "threads/node_binding.hpp"

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <new>
#include <optional>
#include <utility>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gqmm::detail {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool recycle = false;  // a recycled block would hide a use after free from the sanitizer
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
// Blocks of at least this size begin at a huge page and ask for huge pages. At most one page in eight is lost. The hardware then
// hardly walks page tables while it streams through packed weights.
constexpr std::size_t worth_huge_pages = 8 * huge_page;
constexpr std::size_t large = std::size_t{256} << 10;  // below this size, malloc recycles by itself
constexpr std::size_t kept_at_most = std::size_t{64} << 20;

std::align_val_t alignment_of(std::size_t bytes) { return std::align_val_t{bytes >= worth_huge_pages ? huge_page : 64}; }

void* allocate(std::size_t bytes) {
  void* data = ::operator new(bytes, alignment_of(bytes));
#if defined(MADV_HUGEPAGE)
  if (bytes >= worth_huge_pages) {
    static_cast<void>(
        madvise(data, bytes / huge_page * huge_page, MADV_HUGEPAGE));  // only a request; everything works without it as well
  }
#endif
  return data;
}

void release(void* data, std::size_t bytes) { ::operator delete(data, alignment_of(bytes)); }

/// Allocates one block for the memory and its reference count. Under a sanitizer there are no spare bytes, because they would
/// hide an access outside of the block.
std::shared_ptr<void> allocate_small(std::size_t bytes) {
  constexpr std::uintptr_t line = 64;
  std::shared_ptr<std::byte[]> block = std::make_shared_for_overwrite<std::byte[]>(bytes + line - 1);
  const std::size_t spare = (line - reinterpret_cast<std::uintptr_t>(block.get()) % line) % line;
  std::byte* data = block.get() + spare;
  return {std::move(block), data};
}

constinit threads::ForkSafeMutex cache_mutex;
const threads::ForkSafeMutex::Registration cache_registration(cache_mutex);

/// Keeps blocks that results of earlier calls have freed. A block serves calls on the memory node on which it was written first.
/// cache_mutex guards the object.
class BlockCache {
 public:
  struct Block {
    void* data;
    std::size_t size;
    std::optional<int> node;  // that of the call for which the block was allocated, if it named one
  };

  /// Returns a kept block of `bytes` to twice as many bytes for a call on `node`, or nothing.
  std::optional<Block> take(std::size_t bytes, std::optional<int> node) {
    const std::lock_guard lock(cache_mutex);
    const auto fits = [&](const Block& block) { return block.size >= bytes && block.size / 2 <= bytes && block.node == node; };
    const auto found = std::find_if(blocks_.begin(), blocks_.end(), fits);
    if (found == blocks_.end()) {
      return std::nullopt;
    }
    const Block block = *found;
    kept_ -= block.size;
    blocks_.erase(found);
    return block;
  }
  /// Keeps a block. The oldest blocks are released to make room for it.
  void give(const Block& block) noexcept {
    const std::lock_guard lock(cache_mutex);
    while (!blocks_.empty() && kept_ + block.size > kept_at_most) {
      kept_ -= blocks_.front().size;
      release(blocks_.front().data, blocks_.front().size);
      blocks_.erase(blocks_.begin());
    }
    try {
      blocks_.push_back(block);
      kept_ += block.size;
    } catch (const std::bad_alloc&) {
      release(block.data, block.size);
    }
  }

 private:
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
  if (recycle && bytes < large) {
    return allocate_small(bytes);
  }
  if (!recycle || bytes > kept_at_most) {
    return {allocate(bytes), [bytes](void* p) { release(p, bytes); }};
  }
  const std::optional<int> node = threads::NodeBinding::node();
  std::optional<BlockCache::Block> block = cache().take(bytes, node);
  if (!block) {
    block = {.data = allocate(bytes), .size = bytes, .node = node};
  }
  return {block->data, [kept = *block](void*) { cache().give(kept); }};
}

}  // namespace gqmm::detail
