// Rows of figures as an aligned table, JSON or CSV.
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

/// Adds --mode, --bits and --group-size, for checkpoints that do not say.
void add_assumed_settings(CLI::App& command, io::AssumedSettings& settings);

/// A list of records with the same keys, in columns by key.
class Rows {
 public:
  using Value = nlohmann::ordered_json;

  explicit Rows(std::vector<std::string> keys) : keys_(std::move(keys)) {}

  /// One value per key: a string, a number, a boolean or null.
  void add(std::vector<Value> values);

  /// Numbers to the right, everything else to the left.
  [[nodiscard]] std::string table() const;
  /// RFC 4180, keys first.
  [[nodiscard]] std::string csv() const;
  /// An array of objects.
  [[nodiscard]] Value json() const;

 private:
  std::vector<std::string> keys_;
  std::vector<std::vector<Value>> rows_;
};

/// JSON text of what a command found, ending in a newline. Strings that are not UTF-8 (paths can be anything) are replaced.
[[nodiscard]] std::string json_text(const Rows::Value& value);

/// To the standard output.
void print(std::string_view text);

}  // namespace gqmm::cli
