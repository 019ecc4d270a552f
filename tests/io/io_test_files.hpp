// Files for the tests of the readers.
#pragma once

#include "io/error.hpp"
#include "io/safetensors.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

namespace gqmm::io {

/// A new folder for one test. The destructor removes it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "gqmm-io-XXXXXX").native();
    path_ = ::mkdtemp(name.data());
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

/// A safetensors file: the length of `header` (or `claimed_length`), the header, the data.
inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
  std::string bytes;
  for (unsigned i = 0; i < 8; ++i) {
    bytes += static_cast<char>(header.size() >> 8 * i);
  }
  return bytes.append(header).append(data);
}

inline SafetensorsFile parse_bytes(std::string_view bytes) {
  return parse_safetensors(std::as_bytes(std::span(bytes)), nullptr, "file");
}

/// The message of the FileError that `action` throws.
template <class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const FileError& error) {
    return error.what();
  }
  return "no error";
}

#define EXPECT_ERROR_WITH(action, text) EXPECT_PRED_FORMAT2(::testing::IsSubstring, text, error_of([&] { (void)(action); }))

}  // namespace gqmm::io
