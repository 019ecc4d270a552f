#include "io/safetensors.hpp"

#include "io_test_files.hpp"

#include <sys/stat.h>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::io {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view two_tensors =
    R"({"a":{"dtype":"I16","shape":[2,2],"data_offsets":[0,8]},"b":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[8,11]}})";
constexpr std::string_view eleven_bytes =
    "\x01\x00\x02\x00\x03\x00\xff\xff"
    "abc"sv;

const std::string valid_file = safetensors_bytes(two_tensors, eleven_bytes);

/// The file that has these bytes, or nothing if they are refused with a FileError.
std::optional<SafetensorsFile> parse_or_refuse(const std::string& bytes) {
  try {
    return parse_bytes(bytes);
  } catch (const FileError&) {
    return std::nullopt;
  }
}

TEST(Safetensors, ReadsTypesShapesAndBytes) {
  const SafetensorsFile file = parse_bytes(valid_file);
  ASSERT_EQ(file.tensors.size(), 2U);
  const array a = file.tensors.at("a").view();
  EXPECT_EQ(a.dtype(), Dtype::int16);
  EXPECT_EQ(a.shape(), (Shape{2, 2}));
  std::int16_t values[4];
  std::memcpy(values, a.bytes(), sizeof values);  // at an address of any alignment
  EXPECT_EQ(values[0], 1);
  EXPECT_EQ(values[3], -1);
  EXPECT_FALSE(a.is_writable());
}

TEST(Safetensors, MetadataMayBeNull) {
  const SafetensorsFile file =
      parse_bytes(safetensors_bytes(R"({"__metadata__":null,"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", "1234"));
  EXPECT_TRUE(file.metadata.empty());
  EXPECT_EQ(file.tensors.size(), 1U);
}

TEST(Safetensors, ATypeWithoutADtypeIsReadAsBytes) {
  const SafetensorsFile file = parse_bytes(valid_file);
  EXPECT_EQ(file.tensors.at("b").dtype(), std::nullopt);
  EXPECT_EQ(file.tensors.at("b").bytes.size(), 3U);
}

TEST(Safetensors, ReadsMetadataScalarsEmptyTensorsAndHeaderPadding) {
  const SafetensorsFile file =
      parse_bytes(safetensors_bytes(R"({"__metadata__":{"format":"mlx"},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                                    R"("e":{"dtype":"F32","shape":[0,5],"data_offsets":[4,4]}}   )",
                                    "1234"));
  EXPECT_EQ(file.metadata.at("format"), "mlx");
  EXPECT_EQ(file.tensors.at("s").view().size(), 1);
  EXPECT_EQ(file.tensors.at("e").view().size(), 0);
}

TEST(Safetensors, AnArrayKeepsTheMappingAlive) {
  const TemporaryFolder folder;
  array a;
  {
    const SafetensorsFile file = open_safetensors(folder.write("f.safetensors", valid_file));
    a = file.tensors.at("a").view();
  }
  EXPECT_EQ(static_cast<int>(a.bytes()[4]), 3);
}

TEST(Safetensors, TensorsOfTheRealModelLieInTheFileAtTheirOffsets) {
  const SafetensorsFile file = open_safetensors(std::filesystem::path(GQMM_TEST_MODEL) / "model.safetensors");
  const Tensor& w = file.tensors.at("model.layers.0.mlp.switch_mlp.gate_proj.weight");
  EXPECT_EQ(w.view().dtype(), Dtype::uint32);
  EXPECT_EQ(w.shape, (Shape{32, 128, 32}));
  EXPECT_NE(reinterpret_cast<std::uintptr_t>(w.bytes.data()) % 4, 0U) << "the model's odd header length is what makes it a test";
}

struct Malformed {
  const char* name;
  std::string header;
  std::string data;
  const char* error;
};

void PrintTo(const Malformed& malformed, std::ostream* out) { *out << malformed.name; }

class MalformedSafetensors : public ::testing::TestWithParam<Malformed> {};

TEST_P(MalformedSafetensors, IsAnErrorThatSaysWhatIsWrong) {
  EXPECT_ERROR_WITH(parse_bytes(safetensors_bytes(GetParam().header, GetParam().data)), GetParam().error);
}

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"t":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}

std::string pair(const std::string& first, const std::string& second) {
  return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first + R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" +
         second + "}}";
}

INSTANTIATE_TEST_SUITE_P(
    , MalformedSafetensors,
    ::testing::Values(
        Malformed{"EmptyHeader", "", "", "does not begin with \"{\""}, Malformed{"Array", "[]", "", "does not begin with \"{\""},
        Malformed{"LeadingSpace", " {}", "", "does not begin with \"{\""}, Malformed{"NotJson", "{a}", "", "not valid JSON"},
        Malformed{"TextAfterTheHeader", "{} {}", "", "not valid JSON"},
        Malformed{"InvalidUtf8", "{\"\xff\":1}", "", "not valid JSON"},
        Malformed{"EntryIsANumber", R"({"t":1})", "", "not a JSON object"},
        Malformed{"MetadataIsAnArray", R"({"__metadata__":[]})", "", "__metadata__ is [], not a JSON object"},
        Malformed{"MetadataHoldsANumber", R"({"__metadata__":{"k":1}})", "", "__metadata__ \"k\" is 1, not a string"},
        Malformed{"NameTwice", R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{}})", "x", "\"t\" appears twice"},
        Malformed{"FieldTwice", R"({"t":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", "x",
                  "\"dtype\" appears twice"},
        Malformed{"NoType", R"({"t":{"shape":[1],"data_offsets":[0,1]}})", "x", "dtype is missing"},
        Malformed{"NoShape", R"({"t":{"dtype":"U8","data_offsets":[0,1]}})", "x", "shape is missing"},
        Malformed{"NoOffsets", R"({"t":{"dtype":"U8","shape":[1]}})", "x", "data_offsets is missing"},
        Malformed{"TypeIsANumber", entry("8", "[1]", "[0,1]"), "x", "dtype is 8, not a string"},
        Malformed{"UnknownType", entry(R"("Q4")", "[1]", "[0,1]"), "x", "unknown dtype \"Q4\"; BOOL, U8, U16"},
        Malformed{"ShapeIsANumber", entry(R"("U8")", "1", "[0,1]"), "x", "shape is 1, not an array"},
        Malformed{"NegativeExtent", entry(R"("U8")", "[-1]", "[0,1]"), "x", "shape holds -1"},
        Malformed{"FractionalExtent", entry(R"("U8")", "[1.0]", "[0,1]"), "x", "shape holds 1.0"},
        Malformed{"NestedExtent", entry(R"("U8")", "[[1]]", "[0,1]"), "x", "shape holds [1]"},
        Malformed{"ExtentPast63Bits", entry(R"("U8")", "[9223372036854775808]", "[0,1]"), "x", "shape holds 9223372036854775808"},
        Malformed{"ExtentPast64Bits", entry(R"("U8")", "[18446744073709551617]", "[0,1]"), "x", "shape holds"},
        Malformed{"ProductWrapsRoundToTheRightLength", entry(R"("U8")", "[4294967296,4294967296,1]", "[0,0]"), "",
                  "cannot be stored"},
        Malformed{"BytesWrapRound", entry(R"("F64")", "[2305843009213693953]", "[0,8]"), "12345678", "cannot be stored"},
        Malformed{"EmptyWithExtentsThatOverflowStrides", entry(R"("F64")", "[0,4294967296,4294967296]", "[0,0]"), "",
                  "cannot be stored"},
        Malformed{"SixBitElementsThatDoNotFillBytes", entry(R"("F6_E2M3")", "[3]", "[0,2]"), "xx", "cannot be stored"},
        Malformed{"OneOffset", entry(R"("U8")", "[1]", "[0]"), "x", "data_offsets is [0], not an array of two offsets"},
        Malformed{"NegativeOffset", entry(R"("U8")", "[1]", "[-1,0]"), "x",
                  "data_offsets is [-1,0], not an array of two offsets"},
        Malformed{"OffsetsInReverse", entry(R"("U8")", "[1]", "[1,0]"), "x", "do not lie in order within the 1 bytes"},
        Malformed{"OffsetsPastTheEnd", entry(R"("U8")", "[2]", "[0,2]"), "x", "do not lie in order within the 1 bytes"},
        Malformed{"OffsetsPastTheAddressSpace", entry(R"("U8")", "[1]", "[18446744073709551614,18446744073709551615]"), "x",
                  "do not lie in order"},
        Malformed{"TooManyBytesForTheShape", entry(R"("U16")", "[1]", "[0,3]"), "xyz",
                  "hold 3 bytes but U16 of shape (1,) takes 2"},
        Malformed{"Overlap", pair("[0,4]", "[3,7]"), "1234567", "\"b\": data_offsets [3, 7] overlap"},
        Malformed{"TheSameBytesTwice", pair("[0,4]", "[0,4]"), "1234", "overlap"},
        Malformed{"Gap", pair("[0,4]", "[5,9]"), "123456789", "leave a gap"},
        Malformed{"GapAtTheStart", pair("[1,5]", "[5,9]"), "123456789", "leave a gap"},
        Malformed{"BytesThatBelongToNoTensor", pair("[0,4]", "[4,8]"), "123456789", "1 bytes after the last tensor"},
        Malformed{"ControlCharactersDoNotReachTheTerminal", "{\"\\u001b[2J\":1}", "", "\"\\x1b[2J\""}),
    [](const auto& param) { return std::string(param.param.name); });

TEST(Safetensors, EveryTruncationIsAnError) {
  for (std::size_t size = 0; size < valid_file.size(); ++size) {
    // A copy of exactly that size, so that the address sanitizer sees a read past it.
    const std::vector<char> bytes(valid_file.begin(), valid_file.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THROW((void)parse_bytes({bytes.data(), bytes.size()}), FileError) << size << " bytes";
  }
}

TEST(Safetensors, EveryChangedByteGivesAnErrorOrTensorsInsideTheFile) {
  for (std::size_t at = 0; at < valid_file.size() - eleven_bytes.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string bytes = valid_file;
      bytes[at] = static_cast<char>(value);
      const std::optional<SafetensorsFile> file = parse_or_refuse(bytes);
      if (!file) {
        continue;
      }
      for (const auto& [name, tensor] : file->tensors) {
        const auto* begin = reinterpret_cast<const char*>(tensor.bytes.data());
        ASSERT_GE(begin, bytes.data());
        ASSERT_LE(begin + tensor.bytes.size(), bytes.data() + bytes.size());
      }
    }
  }
}

TEST(Safetensors, AHeaderLengthBeyondTheFileIsRefusedWithoutAllocating) {
  for (const char top : {'\x00', '\x7f', '\xff'}) {
    const std::string bytes = std::string(7, '\xff') + top + "{}";
    EXPECT_ERROR_WITH(parse_bytes(bytes), "bytes but 2 follow its length; the file is truncated");
  }
}

TEST(Safetensors, WhatIsNotARegularFileIsAnError) {
  const TemporaryFolder folder;
  EXPECT_ERROR_WITH(open_safetensors(folder.path() / "absent"), "absent] cannot open: No such file or directory");
  EXPECT_ERROR_WITH(open_safetensors(folder.path()), "is a folder, not a file");
  EXPECT_ERROR_WITH(open_safetensors(folder.write("empty", "")), "0 bytes are too few");
  ASSERT_EQ(::mkfifo((folder.path() / "pipe").c_str(), 0600), 0);
  EXPECT_ERROR_WITH(open_safetensors(folder.path() / "pipe"), "is not a regular file");
}

}  // namespace
}  // namespace gqmm::io
