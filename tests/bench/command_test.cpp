#include "bench.hpp"

#include <gtest/gtest.h>

#include <unistd.h>
#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

namespace gqmm::bench {
namespace {

class Command : public testing::Test {
 protected:
  Command() : folder_(std::filesystem::temp_directory_path() / ("gqmm-bench-test-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~Command() override { std::filesystem::remove_all(folder_); }
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  static void run(const std::string& arguments) {
    CLI::App program;
    add_command(program);
    program.parse("bench " + arguments);
  }

  std::filesystem::path folder_;
};

TEST_F(Command, MeasuresEveryCombinationAndWritesBothFiles) {
  const std::string small =
      "--experts 4 --n 32 --k 128 --top 2 --tokens 1,3 --dtype float16,float32 --threads 1 --repetitions 1 ";
  run(small + "--pool 1 --peers none --results " + folder_.string());
  int json_files = 0;
  int markdown_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    if (entry.path().extension() == ".md") {
      ++markdown_files;
    }
    if (entry.path().extension() == ".json") {
      ++json_files;
      std::ifstream file(entry.path());
      const auto document = nlohmann::json::parse(file);
      ASSERT_EQ(document.at("cases").size(), 4U);
      for (const auto& figures : document.at("cases")) {
        EXPECT_GT(figures.at("seconds").at("median"), 0);
        EXPECT_GT(figures.at("arithmetic").at("fraction").at("median"), 0);
        EXPECT_LE(figures.at("worst_error_of_bound"), 1);
        EXPECT_EQ(figures.at("threads"), 1);
      }
    }
  }
  EXPECT_EQ(json_files, 1);
  EXPECT_EQ(markdown_files, 1);
}

TEST_F(Command, ContradictionsAreErrorsWithARemedy) {
  EXPECT_THROW(run("--experts 4 --n 32"), std::invalid_argument);
  EXPECT_THROW(run("--experts 4 --n 32 --k 64 --top 5"), std::invalid_argument);
  EXPECT_THROW(run("no-such-shape"), std::invalid_argument);
  EXPECT_THROW(run("--peers no/such/python"), std::invalid_argument);
  EXPECT_THROW(run("--bits 7"), std::invalid_argument);
  EXPECT_THROW(run("--isa pentium --tokens 1 --pool 1"), std::invalid_argument);
}

}  // namespace
}  // namespace gqmm::bench
