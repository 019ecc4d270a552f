#include "measure/statistics.hpp"

#include <gtest/gtest.h>

namespace gqmm::bench {
namespace {

TEST(Statistics, QuartilesLieBetweenTheSortedValues) {
  const Summary summary = summarize({5, 1, 4, 2, 3});
  EXPECT_EQ(summary.median, 3);
  EXPECT_EQ(summary.low, 2);
  EXPECT_EQ(summary.high, 4);
  EXPECT_EQ(summary.least, 1);
  EXPECT_EQ(summary.most, 5);
}

TEST(Statistics, AnEvenNumberOfValuesIsInterpolated) {
  const Summary summary = summarize({4, 1, 2, 3});
  EXPECT_EQ(summary.median, 2.5);
  EXPECT_EQ(summary.low, 1.75);
  EXPECT_EQ(summary.high, 3.25);
}

TEST(Statistics, OneValueIsAllOfIt) {
  const Summary summary = summarize({7});
  EXPECT_EQ(summary.median, 7);
  EXPECT_EQ(summary.low, 7);
  EXPECT_EQ(summary.most, 7);
}

TEST(Statistics, NoValuesAreZero) {
  EXPECT_EQ(summarize({}).median, 0);
  EXPECT_EQ(mean({}), 0);
}

TEST(Statistics, TheMeanOfTheSameWholeNumberIsThatNumber) {
  EXPECT_EQ(mean({1, 2, 6}), 3);
  for (std::size_t count = 1; count <= 27; ++count) {  // as many repetitions as a case can have by default
    EXPECT_EQ(mean(std::vector<double>(count, 128)), 128) << count << " values";
  }
}

}  // namespace
}  // namespace gqmm::bench
