#include "measure/measure.hpp"

#include <gtest/gtest.h>

namespace gqmm::bench {
namespace {

Case case_of(Dtype dtype, Precision precision) {
  Case settings;
  settings.shape = {"small", 6, 48, 256, 2, false};
  settings.dtype = dtype;
  settings.precision = precision;
  return settings;
}

TEST(BindingLimit, AShareOfTheInt8PeakCountsAsOftenAsTheCaseHasSlices) {
  const Case fast = case_of(Dtype::bfloat16, Precision::fast);
  const Case two = case_of(Dtype::bfloat16, Precision::standard);
  const Case three = case_of(Dtype::float32, Precision::standard);
  // .25 of the peak is a quarter, a half and three quarters of what one, two and three slices can reach.
  for (const double memory : {0.2, 0.4, 0.6, 0.8}) {
    EXPECT_EQ(binding_limit(fast, 0.25, memory), memory < 0.25 ? Limit::int8_dot : Limit::dram_read) << memory;
    EXPECT_EQ(binding_limit(two, 0.25, memory), memory < 0.5 ? Limit::int8_dot : Limit::dram_read) << memory;
    EXPECT_EQ(binding_limit(three, 0.25, memory), memory < 0.75 ? Limit::int8_dot : Limit::dram_read) << memory;
  }
}

TEST(BindingLimit, AProductInFloat32HasTheFmaPeakAsItsLimit) {
  Case settings = case_of(Dtype::float32, Precision::standard);
  settings.transpose = false;
  EXPECT_EQ(binding_limit(settings, 0.3, 0.2), Limit::float32_fma);
  EXPECT_EQ(binding_limit(settings, 0.3, 0.4), Limit::dram_read) << "it has no slices";
}

TEST(BindingLimit, WeightsInCacheAreNotBoundByMemory) {
  Case settings = case_of(Dtype::bfloat16, Precision::standard);
  settings.cached = true;
  EXPECT_EQ(binding_limit(settings, 0.1, 7.0), Limit::int8_dot);
}

TEST(RepetitionCount, RejectedRepetitionsBringTheEndNearerToo) {
  RepetitionCount count = {9};
  EXPECT_EQ(count.done(), 0);
  EXPECT_EQ(count.note(), "");
  while (!count.enough()) {
    const double before = count.done();
    ++count.rejected;
    EXPECT_GT(count.done(), before);
  }
  EXPECT_EQ(count.rejected, 27);
  EXPECT_EQ(count.done(), 1);
  EXPECT_EQ(count.note(), "27 rejected  ");
}

TEST(RepetitionCount, ACaseEndsWithAsManyAcceptedAsWanted) {
  EXPECT_FALSE((RepetitionCount{9, 8, 18}.enough()));
  EXPECT_TRUE((RepetitionCount{9, 8, 19}.enough()));
  EXPECT_TRUE((RepetitionCount{9, 9, 0}.enough()));
  EXPECT_EQ((RepetitionCount{9, 9, 0}.done()), 1);
  EXPECT_DOUBLE_EQ((RepetitionCount{9, 3, 2}.done()), 1.0 / 3);
}

}  // namespace
}  // namespace gqmm::bench
