#include "threads/read_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace gqmm::threads {

std::optional<std::string> read_file(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    return std::nullopt;
  }
  std::string text;
  std::array<char, 16384> buffer;
  constexpr std::size_t max_size = std::size_t{64} << 20;
  while (text.size() < max_size) {
    const ssize_t bytes = read(file, buffer.data(), buffer.size());
    if (bytes > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(bytes));
    } else if (bytes == 0 || errno != EINTR) {
      break;
    }
  }
  close(file);
  return text;
}

}  // namespace gqmm::threads
