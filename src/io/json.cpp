#include "io/json.hpp"

#include "io/error.hpp"

#include <fmt/format.h>

#include <string>
#include <unordered_set>
#include <vector>

namespace gqmm::io {
namespace {

using nlohmann::json;

/// Watches the parser's events and stops it by throwing, before it has stored what is over a limit.
class Guard {
 public:
  explicit Guard(std::string_view origin) : origin_(origin) {}

  bool operator()(int depth, json::parse_event_t event, const json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
        keys_.emplace_back();
        check(depth);
        break;
      case json::parse_event_t::object_end: keys_.pop_back(); break;
      case json::parse_event_t::key:
        if (const auto& key = parsed.get_ref<const std::string&>(); !keys_.back().insert(key).second) {
          throw FileError(origin_, fmt::format("the key {} appears twice in one JSON object", in_quotes(key)));
        }
        break;
      case json::parse_event_t::array_start:
      case json::parse_event_t::value: check(depth); break;
      case json::parse_event_t::array_end: break;
    }
    return true;
  }

 private:
  void check(int depth) {
    if (depth > max_json_depth) {
      throw FileError(origin_, fmt::format("JSON nested more than {} deep", max_json_depth));
    }
    if (++values_ > max_json_values) {
      throw FileError(origin_, fmt::format("more than {} JSON values", max_json_values));
    }
  }

  std::string_view origin_;
  std::size_t values_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that are open
};

}  // namespace

json parse_json(std::string_view text, std::string_view origin) {
  if (text.size() > max_json_bytes) {
    throw FileError(origin, fmt::format("{} bytes of JSON, more than the {} allowed", text.size(), max_json_bytes));
  }
  Guard guard(origin);
  try {
    return json::parse(text.begin(), text.end(),
                       [&guard](int depth, json::parse_event_t event, json& parsed) { return guard(depth, event, parsed); });
  } catch (const json::exception& error) {
    std::string_view what = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: …"
    what.remove_prefix(what.find("] ") == std::string_view::npos ? 0 : what.find("] ") + 2);
    throw FileError(origin, fmt::format("not valid JSON: {}", printable(what)));
  }
}

}  // namespace gqmm::io
