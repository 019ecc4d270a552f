#include "cli/output.hpp"

#include "io/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cstdio>
#include <map>
#include <utility>

namespace gqmm::cli {
namespace {

/// For people: null is a dash, fractions have four digits, and nothing from a file can steer the terminal.
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

/// For programs: null is empty, floating-point numbers keep every digit.
std::string csv_field(const Rows::Value& value) {
  if (value.is_null()) {
    return "";
  }
  if (value.is_number_float()) {
    return fmt::format("{}", value.get<double>());
  }
  std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  if (text.find_first_of(",\"\r\n") == std::string::npos) {
    return text;
  }
  for (std::size_t at = 0; (at = text.find('"', at)) != std::string::npos; at += 2) {
    text.insert(at, 1, '"');
  }
  return '"' + text + '"';
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
  const std::string group = "Settings of a checkpoint that brings none";
  command
      .add_option_function<std::string>(
          "--mode", [&settings](const std::string& name) { settings.mode = mode_from_name(name, "--mode"); },
          "affine, mxfp4, mxfp8 or nvfp4")
      ->type_name("MODE")
      ->group(group);
  command.add_option("--bits", settings.bits, "bits per weight")->type_name("B")->group(group);
  command.add_option("--group-size", settings.group_size, "weights per scale")->type_name("G")->group(group);
}

void Rows::add(std::vector<Value> values) { rows_.push_back(std::move(values)); }

std::string Rows::table() const {
  std::vector<std::vector<std::string>> cells = {keys_};
  for (const auto& row : rows_) {
    std::vector<std::string>& texts = cells.emplace_back();
    std::transform(row.begin(), row.end(), std::back_inserter(texts), text_of);
  }
  std::string text;
  std::vector<std::string> lines(cells.size());
  for (std::size_t column = 0; column < keys_.size(); ++column) {
    std::size_t width = 0;
    for (const auto& row : cells) {
      width = std::max(width, row[column].size());
    }
    const bool right = std::any_of(rows_.begin(), rows_.end(), [column](const auto& row) { return row[column].is_number(); });
    for (std::size_t i = 0; i < cells.size(); ++i) {
      lines[i] += column == 0 ? "" : "  ";
      lines[i] += right ? fmt::format("{:>{}}", cells[i][column], width) : fmt::format("{:<{}}", cells[i][column], width);
    }
  }
  for (std::string& line : lines) {
    line.resize(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  }
  return text;
}

std::string Rows::csv() const {
  std::string text;
  const auto append = [&text](const auto& values, const auto& field) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      text += (i == 0 ? "" : ",") + field(values[i]);
    }
    text += "\r\n";
  };
  append(keys_, csv_field);
  for (const auto& row : rows_) {
    append(row, csv_field);
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
