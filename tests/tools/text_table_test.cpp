#include "tools/text_table.hpp"

#include <gtest/gtest.h>

#include <sstream>
#include <string>

namespace gqmm::tools {
namespace {

const TextTable example = {{"name", "count", "why"}, {false, true, false}, {{"a", "1", "short"}, {"longer", "1000", ""}}};

TEST(TextTable, TextAlignsNumbersToTheRightAndEndsNoLineInSpaces) {
  std::ostringstream out;
  print_text(out, example);
  EXPECT_EQ(out.str(),
            "name    count  why\n"
            "a           1  short\n"
            "longer   1000\n");
}

TEST(TextTable, MarkdownHasARuleThatAlignsNumbersToTheRight) {
  std::ostringstream out;
  print_markdown(out, example);
  EXPECT_EQ(out.str(),
            "| name | count | why |\n"
            "| --- | ---: | --- |\n"
            "| a | 1 | short |\n"
            "| longer | 1000 |  |\n");
}

// Columns are aligned even if the text is not ASCII, because fmt pads to the width on the screen.
TEST(TextTable, ColumnsAfterOtherScriptsStayAligned) {
  std::ostringstream out;
  print_text(out, {{"name", "why"}, {false, false}, {{"専門家", "x"}}});
  EXPECT_EQ(out.str(), "name       why\n専門家     x\n");
}

}  // namespace
}  // namespace gqmm::tools
