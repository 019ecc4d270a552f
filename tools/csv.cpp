#include "tools/csv.hpp"

namespace gqmm::tools {
namespace {

/// Puts a field in quotes if it holds a comma, a quote or a line end. Quotes inside the field are doubled.
std::string quoted_if_needed(std::string text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) {
    return text;
  }
  for (std::size_t at = 0; (at = text.find('"', at)) != std::string::npos; at += 2) {
    text.insert(at, 1, '"');
  }
  return '"' + text + '"';
}

}  // namespace

std::string csv_record(std::span<const std::string> fields) {
  std::string record;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    record += (i == 0 ? "" : ",") + quoted_if_needed(fields[i]);
  }
  return record + "\r\n";
}

}  // namespace gqmm::tools
