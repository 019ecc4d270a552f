#include "report/outputs.hpp"

#include "io/error.hpp"

#include <gtest/gtest.h>

#include <sys/resource.h>
#include <unistd.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <ostream>
#include <string>

namespace gqmm::bench {
namespace {

namespace fs = std::filesystem;

/// While one exists, no file of this process grows beyond `bytes`.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit = {bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &before_); }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_ = {};
};

class OutputFiles : public testing::Test {
 protected:
  OutputFiles() : folder_(fs::temp_directory_path() / ("gqmm-outputs-test-" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
    outputs_.json = (folder_ / "figures.json").string();
    outputs_.markdown = (folder_ / "figures.md").string();
  }
  ~OutputFiles() override { fs::remove_all(folder_); }
  OutputFiles(const OutputFiles&) = delete;
  OutputFiles& operator=(const OutputFiles&) = delete;

  /// Reports of one byte for the terminal, `json_bytes` and `markdown_bytes` for the files.
  void write(std::size_t json_bytes, std::size_t markdown_bytes) const {
    write_outputs(outputs_, "stem", [&](std::ostream& out, const std::string& format) {
      out << std::string(format == "json" ? json_bytes : format == "markdown" ? markdown_bytes : 1, 'x');
    });
  }

  static std::string text_of(const fs::path& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  [[nodiscard]] std::ptrdiff_t files() const { return std::distance(fs::directory_iterator(folder_), {}); }

  fs::path folder_;
  Outputs outputs_;
};

TEST_F(OutputFiles, AReportReplacesTheOneBefore) {
  write(100, 200);
  write(10, 20);
  EXPECT_EQ(text_of(outputs_.json), std::string(10, 'x'));
  EXPECT_EQ(text_of(outputs_.markdown), std::string(20, 'x'));
  EXPECT_EQ(files(), 2);
}

TEST_F(OutputFiles, AReportThatCannotBeWrittenWholeLeavesEveryOldFileAsItWas) {
  write(10, 20);
  const FileSizeLimit limit(1 << 20);
  EXPECT_THROW(write(100, 2 << 20), io::FileError);
  EXPECT_EQ(text_of(outputs_.json), std::string(10, 'x'));
  EXPECT_EQ(text_of(outputs_.markdown), std::string(20, 'x'));
  EXPECT_EQ(files(), 2);
}

TEST_F(OutputFiles, AReportThatCannotBeWrittenWholeIsAbsent) {
  const FileSizeLimit limit(1 << 20);
  EXPECT_THROW(write(100, 2 << 20), io::FileError);
  EXPECT_EQ(files(), 0);
}

TEST_F(OutputFiles, AWriterThatFailsLeavesNothing) {
  const auto fail = [](std::ostream& out, const std::string& format) {
    out << "half of";
    if (format == "markdown") {
      throw std::runtime_error("no more figures");
    }
  };
  EXPECT_THROW(write_outputs(outputs_, "stem", fail), std::runtime_error);
  EXPECT_EQ(files(), 0);
}

TEST_F(OutputFiles, TheCheckLeavesFilesAsTheyAre) {
  std::ofstream(outputs_.json) << "kept";
  check_outputs(outputs_, "stem");
  EXPECT_EQ(text_of(outputs_.json), "kept");
  EXPECT_EQ(files(), 1);
}

TEST_F(OutputFiles, ADeviceIsNeverReplaced) {
  outputs_.json = "/dev/null";
  EXPECT_THROW(check_outputs(outputs_, "stem"), io::FileError);
}

}  // namespace
}  // namespace gqmm::bench
