#include "tools/validators.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <string>
#include <system_error>

namespace gqmm::tools {
namespace {

/// True if the whole text is a number of type T. Otherwise `error` may have the reason.
template <class T>
bool parses(const std::string& text, T& value, std::errc& error) {
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  error = result.ec;
  return error == std::errc() && result.ptr == text.data() + text.size();
}

}  // namespace

CLI::Validator whole_number_to(std::int64_t most) {
  const auto check = [most](const std::string& text) -> std::string {
    std::int64_t value = 0;
    std::errc error = {};
    const bool number = parses(text, value, error);
    if (value > most || (error == std::errc::result_out_of_range && !text.starts_with('-'))) {
      return fmt::format("{} is too large; {} is the largest number allowed", text, most);
    }
    return number && value > 0 ? std::string() : fmt::format("'{}' is not a whole number above 0", text);
  };
  return {check, "POSITIVE"};
}

CLI::Validator positive_number() {
  const auto check = [](const std::string& text) -> std::string {
    double value = 0;
    std::errc error = {};
    const bool number = parses(text, value, error) && std::isfinite(value);
    return number && value > 0 ? std::string() : fmt::format("'{}' is not a number above 0", text);
  };
  return {check, "POSITIVE"};
}

}  // namespace gqmm::tools
