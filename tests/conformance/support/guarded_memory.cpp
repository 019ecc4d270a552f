#include "conformance/support/guarded_memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstring>
#include <new>

namespace gqmm::conformance {
namespace {

std::size_t page_size() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }
std::size_t whole_pages(std::size_t bytes) { return (bytes + page_size() - 1) / page_size() * page_size(); }

#ifndef GQMM_SANITIZED  // sanitizers print more in their own handlers
char crash_note[1024];

extern "C" void print_note_and_die(int signal) {
  constexpr char prefix[] = "\ncrashed while running: ";
  (void)!write(STDERR_FILENO, prefix, sizeof prefix - 1);
  (void)!write(STDERR_FILENO, crash_note, std::strlen(crash_note));
  (void)!write(STDERR_FILENO, "\n", 1);
  std::signal(signal, SIG_DFL);
  (void)std::raise(signal);
}
#endif

}  // namespace

std::shared_ptr<std::byte> guarded_memory(std::size_t bytes, Edge edge) {
  const std::size_t inside = whole_pages(bytes);
  const std::size_t total = inside + 2 * page_size();
  void* const map = mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) {
    throw std::bad_alloc();
  }
  std::byte* const first_page = static_cast<std::byte*>(map) + page_size();
  if (inside != 0 && mprotect(first_page, inside, PROT_READ | PROT_WRITE) != 0) {
    munmap(map, total);
    throw std::bad_alloc();
  }
  std::byte* const data = edge == Edge::upper ? first_page + (inside - bytes) : first_page;
  std::memset(data, 0xff, bytes);
  return {data, [map, total](std::byte*) { munmap(map, total); }};
}

void make_read_only(const std::shared_ptr<std::byte>& memory, std::size_t bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(memory.get());
  const std::uintptr_t first_page = address / page_size() * page_size();
  mprotect(reinterpret_cast<void*>(first_page), whole_pages(address - first_page + bytes), PROT_READ);
}

void set_crash_note([[maybe_unused]] const char* text) {
#ifndef GQMM_SANITIZED
  std::strncpy(crash_note, text, sizeof crash_note - 1);
  static const bool installed = [] {
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
      std::signal(signal, print_note_and_die);
    }
    return true;
  }();
  (void)installed;
#endif
}

}  // namespace gqmm::conformance
