#include "io/error.hpp"

#include <fmt/format.h>

#include <system_error>

namespace gqmm::io {

FileError::FileError(std::string_view origin, std::string_view problem)
    : gqmm::FileError(fmt::format("[{}] {}", printable(origin), problem)) {}

std::string printable(std::string_view text) {
  constexpr std::size_t longest = 240;
  if (text.size() > longest) {
    return fmt::format("{} ... {}", printable(text.substr(0, longest / 2)), printable(text.substr(text.size() - longest / 2)));
  }
  std::string result;
  for (const char c : text) {
    if (c >= 0x20 && c < 0x7f) {
      result += c;
    } else {
      result += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return result;
}

std::string in_quotes(std::string_view text) { return fmt::format("\"{}\"", printable(text)); }

std::string system_error_text(std::string_view action, int error_number) {
  return fmt::format("{}: {}", action, std::generic_category().message(error_number));
}

}  // namespace gqmm::io
