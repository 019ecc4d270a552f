#include "cli/output.hpp"

#include "formats/texts.hpp"
#include "io/error.hpp"
#include "tools/csv.hpp"
#include "tools/text_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cstdio>
#include <iterator>
#include <map>
#include <sstream>
#include <utility>

namespace gqmm::cli {
namespace {

/// The text of a value for people. null is a dash, and fractions have four digits. Text from a file cannot send control sequences
/// to the terminal.
std::string text_of(const Rows::Value& value) {
  if (value.is_null()) {
    return "-";
  }
  if (value.is_boolean()) {
    return value.get<bool>() ? "yes" : "no";
  }
  if (value.is_number_float()) {
    return fmt::format("{:.4g}", value.get<double>());
  }
  return value.is_string() ? io::printable(value.get_ref<const std::string&>()) : value.dump();
}

/// The text of a value for programs. null is empty, and floating-point numbers have all digits.
std::string csv_field(const Rows::Value& value) {
  if (value.is_null()) {
    return "";
  }
  if (value.is_number_float()) {
    return fmt::format("{}", value.get<double>());
  }
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::vector<std::string> texts_of(const std::vector<Rows::Value>& values, std::string (*text)(const Rows::Value&)) {
  std::vector<std::string> texts;
  std::transform(values.begin(), values.end(), std::back_inserter(texts), text);
  return texts;
}

}  // namespace

void add_format_option(CLI::App& command, OutputFormat& format) {
  static const std::map<std::string, OutputFormat> names = {
      {"table", OutputFormat::table}, {"json", OutputFormat::json}, {"csv", OutputFormat::csv}};
  command
      .add_option_function<std::string>(
          "--format", [&format](const std::string& name) { format = names.at(name); }, "table, json or csv")
      ->check(CLI::IsMember({"table", "json", "csv"}))
      ->type_name("FORMAT")
      ->default_str("table");
}

void add_assumed_settings(CLI::App& command, io::AssumedSettings& settings) {
  const std::string group = "Settings for a checkpoint that has none";
  command
      .add_option_function<std::string>(
          "--mode", [&settings](const std::string& name) { settings.mode = mode_from_name(name, "--mode"); },
          detail::list_of_modes())
      ->type_name("MODE")
      ->group(group);
  command.add_option("--bits", settings.bits, "bits per weight")->type_name("B")->group(group);
  command.add_option("--group-size", settings.group_size, "weights per scale")->type_name("G")->group(group);
}

void Rows::add(std::vector<Value> values) { rows_.push_back(std::move(values)); }

std::string Rows::table() const {
  tools::TextTable table;
  table.header = keys_;
  for (std::size_t column = 0; column < keys_.size(); ++column) {
    table.numeric.push_back(
        std::any_of(rows_.begin(), rows_.end(), [column](const auto& row) { return row[column].is_number(); }));
  }
  for (const auto& row : rows_) {
    table.rows.push_back(texts_of(row, text_of));
  }
  std::ostringstream text;
  tools::print_text(text, table);
  return text.str();
}

std::string Rows::csv() const {
  std::string text = tools::csv_record(keys_);
  for (const auto& row : rows_) {
    text += tools::csv_record(texts_of(row, csv_field));
  }
  return text;
}

Rows::Value Rows::json() const {
  Value list = Value::array();
  for (const auto& row : rows_) {
    Value record = Value::object();
    for (std::size_t i = 0; i < keys_.size(); ++i) {
      record[keys_[i]] = row[i];
    }
    list.push_back(std::move(record));
  }
  return list;
}

std::string json_text(const Rows::Value& value) {
  return value.dump(2, ' ', false, Rows::Value::error_handler_t::replace) + '\n';
}

void print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

}  // namespace gqmm::cli
