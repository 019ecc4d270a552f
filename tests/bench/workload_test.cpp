#include "measure/workload.hpp"

#include "formats/registry.hpp"

#include <gtest/gtest.h>
#include <gqmm/system.hpp>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

namespace gqmm::bench {

using namespace detail;

namespace {

Case small_case() {
  Case settings;
  settings.shape = {"small", 6, 48, 256, 2, false};
  settings.tokens = 5;
  settings.isa = active_instruction_set();
  return settings;
}

void expect_results_within_the_bound(const Case& settings) {
  Workload workload(settings, 1, Pages::standard);
  workload.prepare(3);
  for (int call = 0; call < 3; ++call) {
    workload.call();
    const ErrorEstimate error = workload.error(100);
    EXPECT_LE(error.bound, 1) << settings.name() << ", call " << call;
    EXPECT_LT(error.relative, 0.1) << settings.name() << ", call " << call;
    EXPECT_GT(error.relative, 0) << settings.name() << ": compared with itself?";
  }
}

TEST(Workload, TheTimedCallsComputeTheProductInEveryFormat) {
  for (const Format& format : formats()) {
    Case settings = small_case();
    settings.mode = format.mode;
    settings.bits = format.bits;
    settings.group_size = format.default_group_size;
    expect_results_within_the_bound(settings);
  }
}

TEST(Workload, TheTimedCallsComputeAWholeLayer) {
  for (const bool packed : {false, true}) {
    for (const bool gpt_oss : {false, true}) {
      for (const std::int64_t shared_experts : {0, 1, 2}) {
        Case settings = small_case();
        settings.shape = {"small-layer", 6, 64, 128, 2, false, true, gpt_oss, shared_experts};
        settings.packed = packed;
        expect_results_within_the_bound(settings);
        settings.dtype = Dtype::float32;
        expect_results_within_the_bound(settings);
      }
    }
  }
}

TEST(Workload, SizesThatMultiplyToMoreThan64BitsAreMoreThanTheMemory) {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t LayerShape::* const extent : {&LayerShape::experts, &LayerShape::N, &LayerShape::K}) {
    Case settings = small_case();
    settings.shape.*extent = most;
    EXPECT_THROW(Workload(settings, 1, Pages::standard), std::invalid_argument);
  }
  Case settings = small_case();
  settings.tokens = most;
  EXPECT_THROW(Workload(settings, 1, Pages::standard), std::invalid_argument);
}

TEST(Workload, TheTimedCallsComputeTheProductInEveryType) {
  for (const Dtype dtype : {Dtype::float16, Dtype::bfloat16, Dtype::float32}) {
    for (const Precision precision : {Precision::standard, Precision::fast, Precision::float32}) {
      Case settings = small_case();
      settings.dtype = dtype;
      settings.precision = precision;
      expect_results_within_the_bound(settings);
    }
  }
}

TEST(Workload, TheTimedCallsComputeTheProductPackedPerPairAndNotTransposed) {
  Case settings = small_case();
  settings.packed = true;
  expect_results_within_the_bound(settings);
  settings.shape.row_per_pair = true;
  expect_results_within_the_bound(settings);
  settings = small_case();
  settings.shape.N = 64;
  settings.transpose = false;
  expect_results_within_the_bound(settings);
}

TEST(Workload, ThePoolHoldsAsManyCopiesAsItsBytesNeed) {
  const Case settings = small_case();
  const double copy = settings.bytes_per_expert() * 6;
  EXPECT_EQ(Workload(settings, 1, Pages::standard).copies(), 1);
  EXPECT_EQ(Workload(settings, static_cast<std::size_t>(2.5 * copy), Pages::standard).copies(), 3);
  Case cached = settings;
  cached.cached = true;
  EXPECT_EQ(Workload(cached, static_cast<std::size_t>(2.5 * copy), Pages::standard).copies(), 1);
}

TEST(Workload, ACaseBeyondTheMemoryOfTheMachineIsAnErrorWithItsSize) {
  Case settings = small_case();
  settings.shape = {"huge", 1 << 20, 65536, 65536, 2, false};
  try {
    Workload workload(settings, 1, Pages::standard);
    FAIL() << "no error";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("GB of memory"), std::string::npos) << error.what();
  }
}

TEST(Case, SlicesAreThoseOfTheResultsPrecision) {
  Case settings = small_case();
  EXPECT_EQ(settings.slices(), 2);
  settings.precision = Precision::fast;
  EXPECT_EQ(settings.slices(), 1);
  settings.precision = Precision::float32;
  EXPECT_EQ(settings.slices(), 3);
  settings.precision = Precision::standard;
  settings.dtype = Dtype::float32;
  EXPECT_EQ(settings.slices(), 3);
  settings.transpose = false;
  EXPECT_EQ(settings.slices(), 1) << "computed in float32";
}

// 4-bit codes, and a bfloat16 scale and bias for 64 of them.
TEST(Case, BytesAndOperationsAreThoseOfTheFormat) {
  Case settings;
  settings.shape = shape_from_name("qwen3-30b-a3b/gate");
  settings.tokens = 512;
  EXPECT_EQ(settings.bytes_per_expert(), 768 * 2048 / 2 + 768 * 2048 / 64 * 4);
  EXPECT_EQ(settings.operations(), 2.0 * 4096 * 768 * 2048);
  settings.mode = Mode::nvfp4;
  settings.group_size = 16;
  EXPECT_EQ(settings.bytes_per_expert(), 768 * 2048 / 2 + 768 * 2048 / 16);
}

TEST(Case, AWholeLayerHasThreeProjections) {
  Case gate;
  gate.shape = shape_from_name("qwen3-30b-a3b/gate");
  Case layer;
  layer.shape = shape_from_name("qwen3-30b-a3b/layer");
  EXPECT_EQ(layer.operations(), 3 * gate.operations());
  EXPECT_EQ(layer.bytes_per_expert(), 3 * gate.bytes_per_expert());
  EXPECT_EQ(layer.bytes(8), 8 * layer.bytes_per_expert());
}

TEST(Case, ASharedExpertIsOneMoreOfEveryToken) {
  Case layer;
  layer.shape = shape_from_name("deepseek-v3/layer");
  layer.tokens = 5;
  EXPECT_EQ(layer.operations(), 2.0 * 3 * 5 * (8 + 1) * 2048 * 7168);
  EXPECT_EQ(layer.bytes(40), 41 * layer.bytes_per_expert());
}

}  // namespace
}  // namespace gqmm::bench
