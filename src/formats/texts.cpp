#include "formats/texts.hpp"

#include "formats/registry.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>
#include <vector>

namespace gqmm::detail {
namespace {

/// Joins texts: "a, b or c". `last_word` is the word before the last text.
template <class Text>
std::string in_words(const std::vector<Text>& texts, std::string_view last_word) {
  if (texts.size() < 2) {
    return fmt::format("{}", fmt::join(texts, ""));
  }
  return fmt::format("{} {} {}", fmt::join(texts.begin(), texts.end() - 1, ", "), last_word, texts.back());
}

/// Joins numbers and marks the default: "32, 64 (default) or 128". A single number is not marked.
template <class Numbers>
std::string in_words_with_default(const Numbers& numbers, int preferred) {
  std::vector<std::string> texts;
  for (const int number : numbers) {
    texts.push_back(fmt::format("{}{}", number, number == preferred && std::size(numbers) > 1 ? " (default)" : ""));
  }
  return in_words(texts, "or");
}

/// Lists a text for each mode: "TEXT for MODE, TEXT for MODE and MODE". Modes with the same text share it. Modes without a text
/// are left out.
template <class TextOf>
std::string list_by_mode(TextOf text_of) {
  std::vector<std::string> texts;
  std::vector<std::vector<std::string_view>> modes_of_text;
  for (const Mode mode : modes()) {
    const std::string text = text_of(default_format(mode));
    if (text.empty()) {
      continue;
    }
    const auto at = static_cast<std::size_t>(std::find(texts.begin(), texts.end(), text) - texts.begin());
    if (at == texts.size()) {
      texts.push_back(text);
      modes_of_text.emplace_back();
    }
    modes_of_text[at].push_back(name_of(mode));
  }
  for (std::size_t i = 0; i < texts.size(); ++i) {
    texts[i] += " for " + in_words(modes_of_text[i], "and");
  }
  return fmt::format("{}", fmt::join(texts, ", "));
}

/// The names of the modes for whose default format `predicate` is true.
template <class Predicate>
std::vector<std::string_view> names_of_modes(Predicate predicate) {
  std::vector<std::string_view> names;
  for (const Mode mode : modes()) {
    if (predicate(default_format(mode))) {
      names.push_back(name_of(mode));
    }
  }
  return names;
}

std::vector<std::string_view> names_with_global_scale() {
  return names_of_modes([](const Format& format) { return format.has_global_scale; });
}

}  // namespace

std::string list_of_modes() {
  return in_words(names_of_modes([](const Format&) { return true; }), "or");
}

std::string list_of_bits() {
  return list_by_mode([](const Format& of_mode) { return in_words_with_default(bits_of(of_mode.mode), of_mode.bits); });
}

std::string list_of_group_sizes() {
  return list_by_mode(
      [](const Format& of_mode) { return in_words_with_default(of_mode.group_sizes, of_mode.default_group_size); });
}

std::string list_of_scale_types() {
  return list_by_mode([](const Format& of_mode) { return float8_name(of_mode.scale_encoding); });
}

std::string list_of_modes_with_global_scale() { return in_words(names_with_global_scale(), "and"); }

std::string text_without_global_scale(Mode mode) {
  const auto names = names_with_global_scale();
  return fmt::format("mode \"{}\" has none; only \"{}\" {} it", name_of(mode), fmt::join(names, "\" and \""),
                     names.size() == 1 ? "takes" : "take");
}

}  // namespace gqmm::detail
