// pack: results do not change, in memory and through a file, and memory hardly grows.
#include "pack_test_support.hpp"

#include <sys/stat.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>

namespace gqmm::test {

using namespace detail;

namespace {

class Pack : public testing::TestWithParam<PackCase> {};

TEST_P(Pack, ResultsAreThoseOfTheOriginalArrays) {
  const auto& [format, group_size, transpose] = GetParam();
  Generator random(2);
  const std::int64_t N = transpose ? 21 : 2 * group_size;
  const std::int64_t K = transpose ? 2 * group_size : 21;
  Weights weights = random_weights(random, *format, group_size, transpose, {3}, N, K, Dtype::float16);
  if (format->has_global_scale) {
    weights.global_scale = floats({3}, {1000, 2000, 3000});
  }
  const PackedWeights packed = pack(weights);
  for (const Dtype dtype : {Dtype::float32, Dtype::float16}) {
    const array x = random.normal({4, 2, K}, dtype);
    GatherQmmOptions indices = {.lhs_indices = int64s({3}, {3, 0, 1}), .rhs_indices = int64s({3}, {2, 0, 2})};
    weights.options.lhs_indices = indices.lhs_indices;
    weights.options.rhs_indices = indices.rhs_indices;
    const array in_place = gather_qmm(x, weights, weights.options);
    const array from_packed = gather_qmm(x, packed, indices);
    EXPECT_EQ(from_packed.shape(), in_place.shape());
    EXPECT_EQ(from_packed.dtype(), in_place.dtype());
    EXPECT_EQ(memory_of(from_packed), memory_of(in_place));
  }
}

INSTANTIATE_TEST_SUITE_P(EveryFormat, Pack, testing::ValuesIn(all_pack_cases()), name_of_pack_case);

TEST(PackedWeights, KnowsItsSettings) {
  const PackedWeights packed = pack(affine_weights(1, {3}, 17, 64));
  EXPECT_EQ(packed.mode(), Mode::affine);
  EXPECT_EQ(packed.bits(), 4);
  EXPECT_EQ(packed.group_size(), 32);
  EXPECT_TRUE(packed.transpose());
  EXPECT_EQ(packed.shape(), (Shape{3, 17, 64}));
  // 3 experts of two strips of 16 rows: 8 words and twice 2 float32 each.
  EXPECT_EQ(packed.nbytes(), 3U * 32 * (8 * 4 + 2 * 2 * 4));
}

/// Weights that are never looked at: their size counts, and that of one expert is every expert's.
QuantizedWeights unwritten_weights(const Format& format, bool transpose, std::int64_t N, std::int64_t K) {
  const std::int64_t along = transpose ? K : N;
  const bool floats = format.scale_encoding == ScaleEncoding::floating;
  Shape shape = {1, transpose ? N : K, along * format.bits / 32};
  QuantizedWeights weights = {
      .w = array::empty(shape, Dtype::uint32), .mode = format.mode, .bits = format.bits, .transpose = transpose};
  std::memset(weights.w.mutable_bytes(), 0, weights.w.nbytes());
  shape.back() = along / format.default_group_size;
  weights.scales = array::empty(shape, floats ? Dtype::bfloat16 : Dtype::uint8);
  if (format.has_biases) {
    weights.biases = weights.scales;
  }
  return weights;
}

TEST(PackedWeights, TakeHardlyMoreMemoryThanTheOriginals) {
  for (const Format& format : formats()) {
    for (const auto& [N, K] : {std::pair{768, 2048}, {2048, 768}, {2880, 2880}, {14336, 4096}, {2048, 7168}}) {
      const QuantizedWeights weights = unwritten_weights(format, true, N, K);
      EXPECT_LE(static_cast<double>(pack(weights).nbytes()), 1.03 * static_cast<double>(weights.nbytes()))
          << describe(format) << ", N = " << N << ", K = " << K;
    }
  }
}

TEST(PackedWeights, PayForNOnlyUpToAMultipleOf16) {
  for (const Format& format : formats()) {
    const QuantizedWeights weights = unwritten_weights(format, true, 17, 256);
    EXPECT_EQ(pack(weights).nbytes(), weights.nbytes() / 17 * 32) << describe(format);
    const QuantizedWeights rows_as_they_are = unwritten_weights(format, false, 256, 17);
    EXPECT_EQ(pack(rows_as_they_are).nbytes(), rows_as_they_are.nbytes()) << describe(format);
  }
}

std::size_t beyond_multiple(const array& a, std::size_t of) { return reinterpret_cast<std::uintptr_t>(a.bytes()) % of; }

TEST(PackedWeights, BeginAtAHugePageWhereTheyAreLargeAndAtACacheLineElsewhere) {
  constexpr std::size_t huge_page = std::size_t{2} << 20;
  for (const bool transpose : {true, false}) {
    const PackedWeights large = pack(unwritten_weights(*find_format(Mode::affine, 4), transpose, 16384, 2048));
    ASSERT_EQ(large.data().codes.nbytes(), 8 * huge_page);
    EXPECT_EQ(beyond_multiple(large.data().codes, huge_page), 0U);
    EXPECT_EQ(beyond_multiple(large.data().scales, 64), 0U);
    EXPECT_EQ(beyond_multiple(large.data().biases, 64), 0U);
  }
  for (int i = 0; i < 5; ++i) {
    const PackedWeights small = pack(affine_weights(1, {3}, 17, 64));
    EXPECT_EQ(beyond_multiple(small.data().codes, 64), 0U);
    EXPECT_EQ(beyond_multiple(small.data().scales, 64), 0U);
  }
}

TEST(PackedWeights, StridedArraysPackAsTheirCopies) {
  Weights weights = affine_weights(1, {4}, 17, 64);
  const PackedWeights expected = pack(weights);
  for (array* a : {&weights.w, &weights.scales, &*weights.biases}) {
    // The same values, rows interleaved with other memory and an odd address.
    const std::int64_t step = a->stride(1) + 5;
    const array memory = array::empty({1 + 4 * 17 * step}, Dtype::uint8);
    for (std::int64_t row = 0; row < 4 * 17; ++row) {
      std::memcpy(memory.mutable_bytes() + 1 + row * step, a->bytes() + row * a->stride(1),
                  static_cast<std::size_t>(a->stride(1)));
    }
    *a = array::borrow(memory.bytes() + 1, a->shape(), a->dtype(), {17 * step, step, 4}, memory.owner());
  }
  const PackedWeights packed = pack(weights);
  EXPECT_EQ(memory_of(packed.data().codes), memory_of(expected.data().codes));
  EXPECT_EQ(memory_of(packed.data().scales), memory_of(expected.data().scales));
  EXPECT_EQ(memory_of(packed.data().biases), memory_of(expected.data().biases));
}

TEST(PackedWeights, MayBeEmpty) {
  for (const auto& [leading, N] : {std::pair<Shape, std::int64_t>{{0}, 5}, {{2}, 0}}) {
    const PackedWeights packed = pack(affine_weights(1, leading, N, 32));
    EXPECT_EQ(packed.nbytes(), 0U);
    EXPECT_EQ(gather_qmm(array::empty({1, 32}, Dtype::float32), packed).shape(), (Shape{leading[0], 1, N}));
  }
}

class PackedErrors : public testing::Test {
 protected:
  void expect(const std::string& message) {
    expect_error(message, [&] { gather_qmm(x, packed, options); });
  }
  array x = Generator(1).normal({2, 64});
  PackedWeights packed = pack(affine_weights(2, {3}, 5, 64));
  GatherQmmOptions options;
};

TEST(PackedGlobalScale, IsGivenToWeightsThatHoldNone) {
  Generator random(3);
  Weights weights = random_weights(random, *find_format(Mode::nvfp4, 4), 16, true, {3}, 5, 64);
  const array x = random.normal({3, 2, 64});
  const PackedWeights without = pack(weights);
  weights.global_scale = random.normal({3});
  const PackedWeights with = without.with_global_scale(*weights.global_scale);
  EXPECT_EQ(with.data().codes.bytes(), without.data().codes.bytes()) << "the memory is shared";
  EXPECT_EQ(memory_of(gather_qmm(x, with)), memory_of(gather_qmm(x, pack(weights))));
  EXPECT_EQ(memory_of(gather_qmm(x, with)), memory_of(gather_qmm(x, weights)));
  EXPECT_NE(memory_of(gather_qmm(x, with)), memory_of(gather_qmm(x, without))) << "the others are as they were";
}

TEST(PackedGlobalScale, OfOneValueHoldsForEveryMatrix) {
  Generator random(3);
  Weights weights = random_weights(random, *find_format(Mode::nvfp4, 4), 16, true, {2, 3}, 5, 64);
  const PackedWeights packed = pack(weights).with_global_scale(floats({1, 1}, {2.5F}));
  weights.global_scale = floats({2, 3}, std::vector<float>(6, 2.5F));
  const array x = random.normal({2, 64});
  EXPECT_EQ(memory_of(gather_qmm(x, packed)), memory_of(gather_qmm(x, weights)));
}

TEST(PackedGlobalScale, ThatDoesNotFitIsAnError) {
  Generator random(3);
  const PackedWeights packed = pack(random_weights(random, *find_format(Mode::nvfp4, 4), 16, true, {3}, 5, 64));
  const PackedWeights with = packed.with_global_scale(floats({}, {1}));
  expect_error("[gather_qmm] global_scale is given but w is packed and holds its own; leave it out",
               [&] { return with.with_global_scale(floats({}, {1}), "gather_qmm"); });
  expect_error(
      "[with_global_scale] global_scale has shape (2,) but the leading shape of w is (3,); pass one value, or one per matrix",
      [&] { return packed.with_global_scale(floats({2}, {1, 2})); });
  expect_error("[with_global_scale] global_scale is given but mode \"affine\" has none; only \"nvfp4\" takes it",
               [&] { return pack(affine_weights(1, {3}, 5, 64)).with_global_scale(floats({}, {1})); });
}

TEST_F(PackedErrors, EverythingElseIsCheckedAsWithoutPacking) {
  options.rhs_indices = int64s({1}, {3});
  expect("[gather_qmm] rhs_indices[0] = 3 is out of range: w has 3 matrices, so indices must lie in 0 ... 2");
  x = Generator(1).normal({2, 32});
  expect("[gather_qmm] x has K = 32 but the packed w of shape (3, 5, 64) has K = 64; the last dimension of x must be K");
  expect_error(
      "[quantized_matmul] x has K = 32 but the packed w of shape (3, 5, 64) has K = 64; the last dimension of x must be K",
      [&] { quantized_matmul(x, packed); });
}

TEST_F(PackedErrors, PackChecksItsArrays) {
  Weights weights = affine_weights(2, {3}, 5, 64);
  weights.group_size.reset();
  expect_error(
      "[pack] scales has shape (3, 5, 2) but w of shape (3, 5, 8) with bits = 4 and group_size = 64 needs (3, 5, 1); group_size "
      "= 32 would fit",
      [&] { return pack(weights); });
  weights.biases.reset();
  expect_error("[pack] biases is missing; mode \"affine\" needs it: pass the third array that quantize returns",
               [&] { return pack(weights); });
}

std::string error_of_loading(const std::filesystem::path& path) {
  try {
    (void)PackedWeights::load(path);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "no error";
}

TEST_P(Pack, ASavedFileIsMappedAndGivesTheSameBits) {
  const auto& [format, group_size, transpose] = GetParam();
  const TemporaryFolder folder;
  Generator random(2);
  const std::int64_t along = 3 * group_size;
  Weights weights = random_weights(random, *format, group_size, transpose, {2, 2}, transpose ? 50 : along, transpose ? along : 50,
                                   Dtype::float16);
  if (format->has_global_scale) {
    weights.global_scale = random.normal({2, 2});
  }
  const PackedWeights packed = pack(weights);
  packed.save(folder.file("w"));
  packed.save(folder.file("w"));  // replaces it
  const PackedWeights loaded = PackedWeights::load(folder.file("w"));
  EXPECT_EQ(loaded.shape(), packed.shape());
  EXPECT_EQ(loaded.mode(), packed.mode());
  EXPECT_EQ(loaded.bits(), packed.bits());
  EXPECT_EQ(loaded.group_size(), packed.group_size());
  EXPECT_EQ(loaded.transpose(), packed.transpose());
  EXPECT_EQ(loaded.nbytes(), packed.nbytes());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(loaded.data().codes.bytes()) % 64, 0U);
  const array x = random.normal({2, 3, transpose ? along : 50});
  EXPECT_EQ(memory_of(gather_qmm(x, loaded)), memory_of(gather_qmm(x, packed)));
}

TEST(PackedFile, EmptyWeightsComeBackEmpty) {
  const TemporaryFolder folder;
  const Weights weights = affine_weights(4, {0, 3}, 5, 64, true);
  pack(weights).save(folder.file("w"));
  EXPECT_EQ(PackedWeights::load(folder.file("w")).shape(), (Shape{0, 3, 5, 64}));
}

TEST(PackedFile, ReplacesARegularFileOnly) {
  const TemporaryFolder folder;
  const PackedWeights packed = pack(affine_weights(4, {1}, 2, 64, true));
  const auto error_of_saving = [&](const std::filesystem::path& path) {
    try {
      packed.save(path);
    } catch (const std::runtime_error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  ASSERT_EQ(::mkfifo(folder.file("pipe").c_str(), 0600), 0);
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "pipe] is a named pipe, which is never replaced",
                      error_of_saving(folder.file("pipe")));
  EXPECT_TRUE(std::filesystem::is_fifo(folder.file("pipe")));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "[/dev/null] is a device", error_of_saving("/dev/null"));
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "is a folder", error_of_saving(folder.file("pipe").parent_path()));
}

TEST(PackedFile, MayReplaceTheFileThatItWasLoadedFrom) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.file("w");
  pack(affine_weights(4, {1}, 2, 64, true)).save(path);
  std::filesystem::permissions(path, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  const PackedWeights loaded = PackedWeights::load(path);
  const std::string before = memory_of(loaded.data().codes);
  loaded.save(path);
  EXPECT_EQ(memory_of(loaded.data().codes), before) << "its memory is still the old file's";
  EXPECT_EQ(memory_of(PackedWeights::load(path).data().codes), before);
  EXPECT_EQ(std::filesystem::status(path).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST(PackedFile, WhatIsNotOneIsAnErrorThatNamesTheFile) {
  const TemporaryFolder folder;
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "absent] cannot open", error_of_loading(folder.file("absent")));
  const std::filesystem::path path = folder.file("w");
  const auto with_header = [&](const std::string& header) {
    std::string bytes(8, '\0');
    bytes[0] = static_cast<char>(header.size() & 0xff);
    bytes[1] = static_cast<char>(header.size() >> 8);
    std::ofstream(path, std::ios::binary) << bytes << header;
    return error_of_loading(path);
  };
  const auto with_settings = [&](const std::string& settings) {
    return with_header(R"({"__metadata__":{"gqmm.packed_weights":"1",)" + settings + "}}");
  };
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "w] is no file of packed weights; make one with PackedWeights.save",
                      with_header("{}"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, R"(of version "2", and this library reads 1; pack again)",
                      with_header(R"({"__metadata__":{"gqmm.packed_weights":"2"}})"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "its metadata have no group_size", with_settings(R"("bits":"4")"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, R"(bits = "four" is not what it should be)", with_settings(R"("bits":"four")"));
  const std::string settings = R"("mode":"affine","group_size":"64","transpose":"1",)";
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "w] bits = 7 is not available",
                      with_settings(settings + R"("bits":"7","shape":"4,64")"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "fewer than two dimensions", with_settings(settings + R"("bits":"4","shape":"64")"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "whole number of groups of 64",
                      with_settings(settings + R"("bits":"4","shape":"4,65")"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "is not what it should be",
                      with_settings(settings + R"("bits":"4","shape":"4,-64")"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "more elements than 64 bits can count",
                      with_settings(settings + R"("bits":"4","shape":"4294967296,4294967296,4,64")"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "shape (4, 0) has K = 0; the file is damaged: pack the weights and save them again",
                      with_settings(settings + R"("bits":"4","shape":"4,0")"));
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring, "tensor codes is F32 of shape (0, 0, 8, 16) where the settings need U32 of shape (0, 0, 8, 16)",
      with_header(R"({"__metadata__":{"gqmm.packed_weights":"1",)" + settings +
                  R"("bits":"4","shape":"0,0,64"},"codes":{"dtype":"F32","shape":[0,0,8,16],)" + R"("data_offsets":[0,0]}})"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "there is no tensor codes", with_settings(settings + R"("bits":"4","shape":"4,64")"));
}

TEST(PackedFile, ADamagedFileIsAnErrorOrLoads) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.file("w");
  pack(affine_weights(4, {1}, 2, 64, true)).save(path);
  std::ifstream file(path, std::ios::binary);
  const std::string valid((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  for (std::size_t at = 0; at < 600; ++at) {
    for (const char value : {'\0', '1', '9', '"', '\xff'}) {
      std::string bytes = valid;
      bytes[at] = value;
      std::ofstream(path, std::ios::binary) << bytes;
      (void)error_of_loading(path);
    }
  }
  for (std::size_t size = 0; size < valid.size(); size += 7) {
    std::ofstream(path, std::ios::binary) << valid.substr(0, size);
    EXPECT_NE(error_of_loading(path), "no error") << size;
  }
}

}  // namespace
}  // namespace gqmm::test
