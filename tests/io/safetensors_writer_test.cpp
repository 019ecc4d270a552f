#include "io/safetensors_writer.hpp"

#include "io_test_files.hpp"

#include <sys/stat.h>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

namespace gqmm::io {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

std::size_t files_in(const std::filesystem::path& folder) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

const std::vector<TensorLayout> layouts = {
    {"byte", "U8", {1}}, {"word", "U32", {1, 1}}, {"half", "BF16", {3}}, {"none", "F32", {0}}};

void write_all(SafetensorsWriter& writer) {
  writer.write("half", bytes_of("abcdef"));
  writer.write("none", {});
  writer.write("word", bytes_of("1234"));
  writer.write("byte", bytes_of("x"));
}

TEST(SafetensorsWriter, WhatIsWrittenIsReadBack) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "out.safetensors";
  SafetensorsWriter writer(path, layouts, {{"format", "mlx"}}, false);
  write_all(writer);
  writer.commit();
  EXPECT_EQ(files_in(folder.path()), 1U);
  const SafetensorsFile file = open_safetensors(path);
  EXPECT_EQ(file.metadata.at("format"), "mlx");
  ASSERT_EQ(file.tensors.size(), 4U);
  EXPECT_EQ(file.tensors.at("half").shape, (Shape{3}));
  EXPECT_EQ(static_cast<char>(file.tensors.at("half").bytes[5]), 'f');
  EXPECT_EQ(static_cast<char>(file.tensors.at("word").bytes[0]), '1');
  EXPECT_EQ(static_cast<char>(file.tensors.at("byte").bytes[0]), 'x');
}

TEST(SafetensorsWriter, EveryTensorIsAlignedToItsElements) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "out.safetensors";
  SafetensorsWriter writer(path, layouts, {}, false);
  write_all(writer);
  writer.commit();
  for (const auto& [name, tensor] : open_safetensors(path).tensors) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) % size_of(*tensor.dtype()), 0U) << name;
  }
}

TEST(SafetensorsWriter, WithoutCommitNothingIsLeft) {
  const TemporaryFolder folder;
  {
    SafetensorsWriter writer(folder.path() / "out.safetensors", layouts, {}, false);
    writer.write("byte", bytes_of("x"));
  }
  EXPECT_EQ(files_in(folder.path()), 0U);
}

TEST(SafetensorsWriter, AnExistingFileIsReplacedOnRequestOnlyAndOnlyWhole) {
  const TemporaryFolder folder;
  const auto path = folder.write("out.safetensors", "precious");
  EXPECT_ERROR_WITH(SafetensorsWriter(path, layouts, {}, false), "exists already; remove it or choose another name");
  {
    SafetensorsWriter writer(path, layouts, {}, true);
    write_all(writer);
    EXPECT_EQ(std::filesystem::file_size(path), 8U) << "replaced before commit";
    writer.commit();
  }
  EXPECT_EQ(open_safetensors(path).tensors.size(), 4U);
  EXPECT_EQ(files_in(folder.path()), 1U);
}

TEST(SafetensorsWriter, AFileThatAppearsMeanwhileIsNotReplaced) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "out.safetensors";
  SafetensorsWriter writer(path, layouts, {}, false);
  write_all(writer);
  folder.write("out.safetensors", "precious");
  EXPECT_ERROR_WITH(writer.commit(), "exists already");
  EXPECT_EQ(std::filesystem::file_size(path), 8U);
}

TEST(SafetensorsWriter, TheFileHasTheModeOfAnyNewFile) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "out.safetensors";
  const ::mode_t mask = ::umask(027);
  SafetensorsWriter writer(path, {}, {}, false);
  writer.commit();
  ::umask(mask);
  struct stat status = {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0640U);
}

TEST(SafetensorsWriter, LayoutsThatTheFormatDoesNotHaveAreErrors) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "out.safetensors";
  EXPECT_ERROR_WITH(SafetensorsWriter(path, {{"a", "U8", {1}}, {"a", "U8", {1}}}, {}, false),
                    "two tensors would have the name \"a\"; rename one");
  EXPECT_ERROR_WITH(SafetensorsWriter(path, {{"a", "U7", {1}}}, {}, false), "U7 of shape (1,) cannot be stored");
  EXPECT_ERROR_WITH(SafetensorsWriter(path, {{"a", "U8", {1LL << 40, 1LL << 40}}}, {}, false), "cannot be stored");
  EXPECT_ERROR_WITH(SafetensorsWriter(folder.path() / "no" / "f", {}, {}, false),
                    "cannot create a file in its folder: No such file");
}

}  // namespace
}  // namespace gqmm::io
