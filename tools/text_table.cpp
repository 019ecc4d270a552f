#include "tools/text_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>

namespace gqmm::tools {
namespace {

std::vector<std::size_t> widths_of(const TextTable& table) {
  std::vector<std::size_t> widths;
  for (std::size_t column = 0; column < table.header.size(); ++column) {
    std::size_t width = table.header[column].size();
    for (const Row& row : table.rows) {
      width = std::max(width, row[column].size());
    }
    widths.push_back(width);
  }
  return widths;
}

}  // namespace

void print_text(std::ostream& out, const TextTable& table) {
  const std::vector<std::size_t> widths = widths_of(table);
  const auto print = [&](const Row& row) {
    std::string line;
    for (std::size_t column = 0; column < row.size(); ++column) {
      line += column == 0 ? "" : "  ";
      line += table.numeric[column] ? fmt::format("{:>{}}", row[column], widths[column])
                                    : fmt::format("{:<{}}", row[column], widths[column]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out << line << '\n';
  };
  print(table.header);
  for (const Row& row : table.rows) {
    print(row);
  }
}

void print_markdown(std::ostream& out, const TextTable& table) {
  const auto print = [&](const Row& row) {
    for (const std::string& cell : row) {
      out << "| " << cell << ' ';
    }
    out << "|\n";
  };
  print(table.header);
  Row rule;
  for (const bool numeric : table.numeric) {
    rule.emplace_back(numeric ? "---:" : "---");
  }
  print(rule);
  for (const Row& row : table.rows) {
    print(row);
  }
}

}  // namespace gqmm::tools
