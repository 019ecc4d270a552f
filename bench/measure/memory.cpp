#include "measure/memory.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <stdexcept>
#include <utility>

namespace gqmm::bench {

std::string_view name_of(Pages pages) {
  switch (pages) {
    case Pages::huge: return "huge";
    case Pages::small: return "small";
    case Pages::standard: break;
  }
  return "default";
}

Pages pages_from_name(std::string_view name) {
  for (const Pages pages : {Pages::standard, Pages::huge, Pages::small}) {
    if (name == name_of(pages)) {
      return pages;
    }
  }
  throw std::invalid_argument(fmt::format("[bench] pages = '{}' is unknown; use default, huge or small", name));
}

PageMemory::PageMemory(std::size_t bytes, Pages pages) : size_(bytes) {
  if (bytes == 0) {
    return;
  }
  constexpr std::size_t alignment = std::size_t{2} << 20;
  mapped_ = bytes + alignment;
  mapping_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    throw std::bad_alloc();
  }
  const auto address = reinterpret_cast<std::uintptr_t>(mapping_);
  data_ = static_cast<std::byte*>(mapping_) + ((alignment - address % alignment) % alignment);
#if defined(MADV_HUGEPAGE)
  if (pages != Pages::standard) {
    // A kernel without transparent huge pages refuses. That is no error, because the report says what the kernel offers.
    static_cast<void>(madvise(data_, bytes, pages == Pages::huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
  }
#endif
}

PageMemory::~PageMemory() {
  if (mapping_ != nullptr) {
    munmap(mapping_, mapped_);
  }
}

PageMemory::PageMemory(PageMemory&& other) noexcept
    : mapping_(std::exchange(other.mapping_, nullptr)),
      mapped_(std::exchange(other.mapped_, 0)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

PageMemory& PageMemory::operator=(PageMemory&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_, other.mapped_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace gqmm::bench
