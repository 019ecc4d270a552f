#include "tools/csv.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace gqmm::tools {
namespace {

std::string record(const std::vector<std::string>& fields) { return csv_record(fields); }

TEST(Csv, ARecordHasAllItsFieldsAlsoEmptyOnes) {
  EXPECT_EQ(record({"a", "b c", "1.5"}), "a,b c,1.5\r\n");
  EXPECT_EQ(record({"", "", "x", ""}), ",,x,\r\n");
}

TEST(Csv, FieldsThatWouldEndEarlyStandInQuotes) {
  EXPECT_EQ(record({"a,b", "c"}), "\"a,b\",c\r\n");
  EXPECT_EQ(record({R"(my "best", model)"}), "\"my \"\"best\"\", model\"\r\n");
  EXPECT_EQ(record({"two\nlines", "two\rlines"}), "\"two\nlines\",\"two\rlines\"\r\n");
}

}  // namespace
}  // namespace gqmm::tools
