// Memory whose kind of pages is chosen, and whose pages are all touched before a measurement.
#pragma once

#include <cstddef>
#include <string_view>

namespace gqmm::bench {

/// The request to the kernel: none, 2 MiB pages, or 4 KiB pages.
enum class Pages { standard, huge, small };

std::string_view name_of(Pages pages);
/// Returns the kind of pages of this name. Throws std::invalid_argument for an unknown name.
Pages pages_from_name(std::string_view name);

/// A block of anonymous memory, which is aligned to 2 MiB and filled with zeros. Its constructor may throw std::bad_alloc.
class PageMemory {
 public:
  PageMemory() = default;
  PageMemory(std::size_t bytes, Pages pages);
  ~PageMemory();
  PageMemory(PageMemory&& other) noexcept;
  PageMemory& operator=(PageMemory&& other) noexcept;
  PageMemory(const PageMemory&) = delete;
  PageMemory& operator=(const PageMemory&) = delete;

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  void* mapping_ = nullptr;
  std::size_t mapped_ = 0;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace gqmm::bench
