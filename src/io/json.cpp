#include "io/json.hpp"

#include "io/error.hpp"

#include <fmt/format.h>

#include <string>
#include <unordered_set>
#include <vector>

namespace gqmm::io {
namespace {

using nlohmann::json;

/// Reads a document without storing it, and throws at the first thing that is over a limit. (json::parse takes a callback that
/// could do the same, but with one its time grows with the square of the number of objects.)
class Guard : public nlohmann::json_sax<json> {
 public:
  explicit Guard(std::string_view origin) : origin_(origin) {}

  bool null() override { return value(); }
  bool boolean(bool /*value*/) override { return value(); }
  bool number_integer(number_integer_t /*value*/) override { return value(); }
  bool number_unsigned(number_unsigned_t /*value*/) override { return value(); }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override { return value(); }
  bool string(string_t& /*value*/) override { return value(); }
  bool binary(binary_t& /*value*/) override { return value(); }

  bool start_object(std::size_t /*elements*/) override {
    keys_.emplace_back();
    return open();
  }
  bool key(string_t& key) override {
    if (!keys_.back().insert(key).second) {
      throw FileError(origin_, fmt::format("the key {} appears twice in one JSON object", in_quotes(key)));
    }
    return true;
  }
  bool end_object() override {
    keys_.pop_back();
    return close();
  }
  bool start_array(std::size_t /*elements*/) override { return open(); }
  bool end_array() override { return close(); }

  bool parse_error(std::size_t /*position*/, const std::string& /*last_token*/, const json::exception& error) override {
    std::string_view what = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: …"
    what.remove_prefix(what.find("] ") == std::string_view::npos ? 0 : what.find("] ") + 2);
    throw FileError(origin_, fmt::format("not valid JSON: {}", printable(what)));
  }

 private:
  bool value() {
    if (++values_ > max_json_values) {
      throw FileError(origin_,
                      fmt::format("more than {} JSON values, the most that are read; split the model into files of fewer tensors",
                                  max_json_values));
    }
    return true;
  }
  bool open() {
    if (++depth_ > max_json_depth) {
      throw FileError(origin_, fmt::format("JSON nested more than {} deep, the deepest that is read", max_json_depth));
    }
    return value();
  }
  bool close() {
    --depth_;
    return true;
  }

  std::string_view origin_;
  std::size_t values_ = 0;
  int depth_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that are open
};

}  // namespace

json parse_json(std::string_view text, std::string_view origin) {
  if (text.size() > max_json_bytes) {
    throw FileError(origin, fmt::format("{} bytes of JSON, more than the {} allowed", text.size(), max_json_bytes));
  }
  Guard guard(origin);
  json::sax_parse(text.begin(), text.end(), &guard);
  return json::parse(text.begin(), text.end());
}

}  // namespace gqmm::io
