// Kernels assert what their callers promise, in builds with GQMM_ASSERTIONS.
#include "assertion.hpp"
#include "cpu/dispatch.hpp"
#include "formats/registry.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace gqmm::cpu {
namespace {

TEST(Assertions, AConditionIsEvaluatedOnlyWhereAssertionsAreOn) {
  int evaluated = 0;
  const auto evaluate = [&] { return ++evaluated == 1; };
  GQMM_ASSERT(evaluate());
#ifdef GQMM_ASSERTIONS
  EXPECT_EQ(evaluated, 1);
#else
  EXPECT_EQ(evaluated, 0);
#endif
}

#ifdef GQMM_ASSERTIONS

const FormatKernels& kernels_of(Mode mode, int bits) { return active_kernels().formats[index_of(*find_format(mode, bits))]; }

TEST(AssertionsDeathTest, AViolatedPreconditionEndsTheProcessWithItsTextAndPlace) {
  EXPECT_DEATH(GQMM_ASSERT(1 + 1 == 3), R"(\[gqmm\] .*assertions_test\.cpp:[0-9]+: assertion failed: 1 \+ 1 == 3)");
}

// Each kernel gets arguments that it must refuse before it reads or writes anything.
TEST(AssertionsDeathTest, SlicingRefusesGroupsThatAreNoWholeVectors) {
  const auto slice = active_kernels().slice[0][0];
  EXPECT_DEATH(slice({.K = 48, .group_size = 24}), "slice.hpp:.*a.group_size % lanes == 0");
  EXPECT_DEATH(slice({.K = 65, .group_size = 32}), "slice.hpp:.*a.K % a.group_size == 0");
}

TEST(AssertionsDeathTest, AGemmTileRefusesGroupsThatAreNoWholeUnits) {
  const auto tile = active_kernels().gemm[0][0][0][0];
  EXPECT_DEATH(tile({.groups = 1, .group_size = 48}), "gemm.hpp:.*a.group_size % bundle_k == 0");
  EXPECT_DEATH(tile({.groups = 1, .group_size = 32, .prefetch_lines = 3}), "gemm.hpp:.*a.prefetch_lines <= 2");
}

TEST(AssertionsDeathTest, GemvRefusesStripsOfAnotherK) {
  const auto gemv = kernels_of(Mode::affine, 4).gemv[0][0];
  const std::int32_t* const x[1] = {};
  const float* const x_scales[1] = {};
  GemvArguments arguments = {.stream = {}, .group_size = 32, .K = 64, .x = x, .x_scales = x_scales};
  arguments.stream.strip.words = 8;
  arguments.stream.strip.groups = 3;
  EXPECT_DEATH(gemv(arguments), "gemv.hpp:.*weights.groups == groups");
  arguments.stream.strip.groups = 2;
  arguments.stream.strip.rows = 17;
  EXPECT_DEATH(gemv(arguments), "strip_blocks.hpp:.*strip.rows <= lanes");
}

TEST(AssertionsDeathTest, StripsArePackedAndDequantizedInWholeGroups) {
  WeightStrip strip;
  strip.words = 8;
  strip.groups = 2;
  std::vector<float> out(256 * lanes);
  const FormatKernels& kernels = kernels_of(Mode::affine, 4);
  auto* const panel = reinterpret_cast<std::byte*>(out.data());
  EXPECT_DEATH(kernels.pack(strip, 16, 32, panel), "unpack.hpp:.*k0 % Bundle::codes == 0");
  EXPECT_DEATH(kernels.pack(strip, 0, 96, panel), "unpack.hpp:.*<= strip.words");
  EXPECT_DEATH(kernels.pack_scales(strip, 1, 2, out.data()), "scales.hpp:.*first \\+ count <= strip.groups");
  EXPECT_DEATH(kernels.dequantize(strip, 32, 16, 32, out.data()), "float_path.hpp:.*k0 % group_size == 0");
  EXPECT_DEATH(kernels.dequantize(strip, 32, 0, 48, out.data()), "float_path.hpp:.*count % group_size == 0");
  EXPECT_DEATH(kernels.dequantize(strip, 128, 0, 256, out.data()), "float_path.hpp:.*count <= float_block");
  EXPECT_DEATH(kernels_of(Mode::mxfp8, 8).dequantize(strip, 32, 32, 40, out.data()), "float_path.hpp:.*count % group_size == 0");
}

TEST(AssertionsDeathTest, FloatKernelsRefuseBlocksOfAnotherSize) {
  EXPECT_DEATH(active_kernels().float_gemm[0][0]({.tile = {.k = 129}}), "float_path.hpp:.*a.tile.k <= float_block");
  StripStream stream;
  stream.strip.words = 8;
  EXPECT_DEATH(kernels_of(Mode::mxfp8, 8).float_gemv[0](stream, {.x = nullptr, .k = 64}), "float_gemv.hpp:.*strip.words");
}

#endif

}  // namespace
}  // namespace gqmm::cpu
