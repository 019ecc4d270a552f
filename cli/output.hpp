// Prints rows of values as an aligned table, as JSON or as CSV.
#pragma once

#include "io/checkpoint.hpp"

#include <nlohmann/json.hpp>

#include <CLI/App.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gqmm::cli {

enum class OutputFormat : std::uint8_t { table, json, csv };

/// Adds --format to the command.
void add_format_option(CLI::App& command, OutputFormat& format);

/// Adds --mode, --bits and --group-size, for checkpoints without settings.
void add_assumed_settings(CLI::App& command, io::AssumedSettings& settings);

/// A list of records that have the same keys. Each key is a column.
class Rows {
 public:
  using Value = nlohmann::ordered_json;

  explicit Rows(std::vector<std::string> keys) : keys_(std::move(keys)) {}

  /// Adds a record. It has one value for each key: a string, a number, a boolean or null.
  void add(std::vector<Value> values);

  /// A table for people. Columns with numbers are aligned to the right, and all others to the left.
  [[nodiscard]] std::string table() const;
  /// CSV as in RFC 4180. The first record has the keys.
  [[nodiscard]] std::string csv() const;
  /// A JSON array with one object for each record.
  [[nodiscard]] Value json() const;

 private:
  std::vector<std::string> keys_;
  std::vector<std::vector<Value>> rows_;
};

/// The JSON text of `value`, which ends with a newline. Bytes that are not valid UTF-8 are replaced, because a path can hold any
/// bytes.
[[nodiscard]] std::string json_text(const Rows::Value& value);

/// Writes `text` to the standard output.
void print(std::string_view text);

}  // namespace gqmm::cli
