// Prints tables for terminals and for Markdown.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

namespace gqmm::tools {

using Row = std::vector<std::string>;

/// A table. Each row has as many cells as the header. Numeric columns are aligned to the right.
struct TextTable {
  Row header;
  std::vector<bool> numeric;
  std::vector<Row> rows;
};

/// Prints the table in columns that are as wide as their longest cell. Two spaces separate the columns.
void print_text(std::ostream& out, const TextTable& table);
void print_markdown(std::ostream& out, const TextTable& table);

}  // namespace gqmm::tools
