// Tables for terminals and for Markdown.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

namespace gqmm::bench {

using Row = std::vector<std::string>;

/// A header and rows of as many cells each; numbers are aligned to the right.
struct TextTable {
  Row header;
  std::vector<bool> numeric;
  std::vector<Row> rows;
};

/// "12.3 us", "4.56 ms".
std::string duration(double seconds);

void print_text(std::ostream& out, const TextTable& table);
void print_markdown(std::ostream& out, const TextTable& table);

}  // namespace gqmm::bench
