#include "threads/environment.hpp"

#include <gqmm/stream.hpp>

#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <stdexcept>
#include <string_view>

namespace gqmm::threads {
namespace {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blanks = " \t\r\n\v\f";
  const std::size_t first = text.find_first_not_of(blanks);
  return first == std::string_view::npos ? std::string_view() : text.substr(first, text.find_last_not_of(blanks) + 1 - first);
}

struct WholeNumber {
  std::int64_t value = 0;
  enum class Kind : std::uint8_t { none, whole, too_large } kind = Kind::none;
};

/// Reads a whole number such as "12", "+12" or "-12". "12x", "1.5" and "" are not whole numbers.
WholeNumber parse_whole_number(std::string_view text) {
  if (text.starts_with('+') && !text.substr(1).starts_with('-')) {
    text.remove_prefix(1);
  }
  WholeNumber number;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number.value);
  if (rest == end && error == std::errc()) {
    number.kind = WholeNumber::Kind::whole;
  } else if (rest == end && error == std::errc::result_out_of_range) {
    number.kind = text.starts_with('-') ? WholeNumber::Kind::whole : WholeNumber::Kind::too_large;
    number.value = -1;
  }
  return number;
}

}  // namespace

OmpNumThreads parse_omp_num_threads(const char* text) {
  if (text == nullptr) {
    return {};
  }
  const std::string_view all(text);
  const std::string_view first = trimmed(all.substr(0, all.find(',')));
  const WholeNumber number = parse_whole_number(first);
  const auto ignored = [](std::string reason) { return OmpNumThreads{.threads = std::nullopt, .ignored = std::move(reason)}; };
  if (first.empty()) {
    return ignored(fmt::format("\"{}\" has no number", all));
  }
  if (number.kind == WholeNumber::Kind::none) {
    return ignored(fmt::format("\"{}\" is not a whole number", all));
  }
  if (number.kind == WholeNumber::Kind::too_large || number.value > Stream::max_threads) {
    return ignored(fmt::format("\"{}\" is more than {} threads", all, Stream::max_threads));
  }
  if (number.value < 1) {
    return ignored(fmt::format("\"{}\" is not positive", all));
  }
  return {.threads = static_cast<int>(number.value), .ignored = {}};
}

std::optional<int> parse_gqmm_num_threads(const char* text) {
  if (text == nullptr || *text == '\0') {
    return std::nullopt;
  }
  const WholeNumber number = parse_whole_number(trimmed(text));
  if (number.kind != WholeNumber::Kind::whole || number.value < 1 || number.value > Stream::max_threads) {
    throw std::invalid_argument(
        fmt::format("[gqmm] GQMM_NUM_THREADS = \"{}\" is not a number of threads; set a whole number from 1 to {}, or unset it "
                    "to use as many as "
                    "the machine grants",
                    text, Stream::max_threads));
  }
  return static_cast<int>(number.value);
}

}  // namespace gqmm::threads
