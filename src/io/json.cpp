#include "io/json.hpp"

#include "io/error.hpp"
#include "io/file_kind.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

namespace gqmm::io {
namespace {

using nlohmann::json;

/// Reads a document without storing it, and throws when a limit is exceeded. A callback of json::parse could do the same. But
/// with a callback, the time of json::parse grows with the square of the number of objects.
class LimitChecker : public nlohmann::json_sax<json> {
 public:
  /// `unique` lists the keys that may not appear twice in an object. This holds for all keys below them too. nullopt means all
  /// keys of the document.
  LimitChecker(std::string_view origin, std::optional<std::span<const std::string_view>> unique)
      : origin_(origin), unique_(unique) {
    open_.push_back({.all_unique = !unique, .key_is_unique = false, .keys = {}});
  }

  bool null() override { return value(); }
  bool boolean(bool /*value*/) override { return value(); }
  bool number_integer(number_integer_t /*value*/) override { return value(); }
  bool number_unsigned(number_unsigned_t /*value*/) override { return value(); }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override { return value(); }
  bool string(string_t& /*value*/) override { return value(); }
  bool binary(binary_t& /*value*/) override { return value(); }

  bool start_object(std::size_t /*elements*/) override { return open(); }
  bool key(string_t& key) override {
    Container& object = open_.back();
    object.key_is_unique = object.all_unique || std::find(unique_->begin(), unique_->end(), key) != unique_->end();
    if (object.key_is_unique && !object.keys.insert(key).second) {
      throw FileError(origin_, fmt::format("the key {} appears twice in one JSON object", in_quotes(key)));
    }
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(std::size_t /*elements*/) override { return open(); }
  bool end_array() override { return close(); }

  bool parse_error(std::size_t /*position*/, const std::string& /*last_token*/, const json::exception& error) override {
    std::string_view what = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: …"
    what.remove_prefix(what.find("] ") == std::string_view::npos ? 0 : what.find("] ") + 2);
    throw FileError(origin_, fmt::format("is not valid JSON: {}", printable(what)));
  }

 private:
  bool value() {
    if (++values_ > max_json_values) {
      throw FileError(origin_,
                      fmt::format("has more than {} JSON values, which is the limit; split the model into files of fewer tensors",
                                  max_json_values));
    }
    return true;
  }
  bool open() {
    if (open_.size() > max_json_depth) {
      throw FileError(origin_, fmt::format("has JSON that is nested more than {} deep, which is the limit", max_json_depth));
    }
    const bool all_unique = open_.back().all_unique || open_.back().key_is_unique;
    open_.push_back({.all_unique = all_unique, .key_is_unique = false, .keys = {}});
    return value();
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  /// An object or an array that is being read, or the document around it.
  struct Container {
    bool all_unique;     // true if none of its keys may appear twice
    bool key_is_unique;  // true if the key that was read last may not appear twice
    std::unordered_set<std::string> keys;
  };

  std::string_view origin_;
  std::optional<std::span<const std::string_view>> unique_;
  std::size_t values_ = 0;
  std::vector<Container> open_;
};

void check_size(std::string_view text, std::string_view origin) {
  if (text.size() > max_json_bytes) {
    throw FileError(origin, fmt::format("has {} bytes of JSON, more than the {} that are allowed", text.size(), max_json_bytes));
  }
}

json parse_within_limits(std::string_view text, std::string_view origin,
                         std::optional<std::span<const std::string_view>> unique) {
  LimitChecker checker(origin, unique);
  json::sax_parse(text.begin(), text.end(), &checker);
  return json::parse(text.begin(), text.end());
}

/// True for the characters of a number or of a literal such as NaN.
bool is_word_character(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' || c == '-' || c == '.';
}

/// True for NaN, Infinity, -Infinity and a number that a double cannot hold.
bool is_not_finite(std::string_view word) {
  if (word == "NaN" || word == "Infinity" || word == "-Infinity") {
    return true;
  }
  const bool number = word.find_first_not_of("0123456789+-.eE") == std::string_view::npos &&
                      (word.front() == '-' || (word.front() >= '0' && word.front() <= '9'));
  if (!number || word.size() < 4) {  // such a short number is finite; the shortest that is not is 1e309
    return false;
  }
  const std::string terminated(word);
  char* end = nullptr;
  const double value = std::strtod(terminated.c_str(), &end);
  return end == terminated.c_str() + terminated.size() && !std::isfinite(value);
}

/// The length, with both quotes, of the JSON string that begins at the quote text[0].
std::size_t string_length(std::string_view text) {
  std::size_t at = 1;
  while (at < text.size() && text[at] != '"') {
    at += text[at] == '\\' ? 2 : 1;
  }
  return std::min(at + 1, text.size());
}

/// Puts quotes around every number in `text` that is not finite.
std::string with_quoted_infinities(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    std::size_t length = 1;
    bool quoted = false;
    if (text.front() == '"') {
      length = string_length(text);
    } else if (is_word_character(text.front())) {
      length = static_cast<std::size_t>(std::find_if_not(text.begin(), text.end(), is_word_character) - text.begin());
      quoted = is_not_finite(text.substr(0, length));
    }
    result += quoted ? "\"" : "";
    result += text.substr(0, length);
    result += quoted ? "\"" : "";
    text.remove_prefix(length);
  }
  return result;
}

}  // namespace

json parse_json(std::string_view text, std::string_view origin) {
  check_size(text, origin);
  return parse_within_limits(text, origin, std::nullopt);
}

json parse_python_json(std::string_view text, std::string_view origin, std::span<const std::string_view> unique) {
  if (const std::string_view kind = describe_other_kind(text); !kind.empty()) {
    throw FileError(origin, kind);
  }
  check_size(text, origin);
  return parse_within_limits(with_quoted_infinities(text), origin, unique);
}

}  // namespace gqmm::io
