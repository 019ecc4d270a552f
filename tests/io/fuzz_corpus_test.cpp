#include "fuzz/targets.hpp"

#include "io/mapped_file.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

namespace gqmm::io {
namespace {

/// Reads every file of a corpus folder, and returns how many were not refused.
int read_corpus(const std::string& folder, std::uint64_t (*read)(std::span<const std::byte>)) {
  int read_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(GQMM_FUZZ_CORPUS) / folder)) {
    const auto file = MappedFile::open(entry.path());
    // A copy of exactly that size, so that the address sanitizer sees a read past it.
    const std::vector<std::byte> bytes(file->bytes().begin(), file->bytes().end());
    EXPECT_NO_THROW(read_files += read(bytes) != 0 ? 1 : 0) << entry.path();
  }
  return read_files;
}

TEST(FuzzCorpus, EverySafetensorsFileIsReadOrRefused) { EXPECT_GE(read_corpus("safetensors", read_as_safetensors), 3); }

TEST(FuzzCorpus, EveryConfigIsReadOrRefused) { EXPECT_GE(read_corpus("config", read_as_config), 3); }

}  // namespace
}  // namespace gqmm::io
