// Runs the program as a user does, in a folder of its own.
#pragma once

#include "io/io_test_files.hpp"
#include "io/mapped_file.hpp"
#include "io/safetensors_writer.hpp"

#include <nlohmann/json.hpp>

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <vector>

namespace gqmm::cli {

using nlohmann::json;

struct Outcome {
  int status;
  std::string out;
  std::string err;
};

/// True if the program has `gqmm bench` (CMake's option GQMM_BUILD_BENCH).
#if defined(GQMM_TEST_HAS_BENCH)
constexpr bool has_bench = true;
#else
constexpr bool has_bench = false;
#endif

class Cli : public ::testing::Test {
 protected:
  /// Runs "gqmm ARGUMENTS" in a shell, which may also redirect; `environment` holds NAME=VALUE words.
  [[nodiscard]] Outcome run(const std::string& arguments, const std::string& environment = "") const {
    const auto out = folder_.path() / "stdout";
    const auto err = folder_.path() / "stderr";
    const std::string command = "cd " + folder_.path().native() + " && " + environment + " '" + GQMM_PROGRAM + "' 2>" +
                                err.native() + " >" + out.native() + " " + arguments;
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, std::string(io::MappedFile::open(out)->text()),
            std::string(io::MappedFile::open(err)->text())};
  }

  /// The exit status of `gqmm bench ARGUMENTS`, or 0 if the program has no benchmark.
  [[nodiscard]] int status_of_bench(const std::string& arguments) const {
    return has_bench ? run("bench " + arguments).status : 0;
  }

  void expect_error(const std::string& arguments, const std::string& message, const std::string& environment = "") const {
    const Outcome outcome = run(arguments, environment);
    EXPECT_EQ(outcome.status, 2) << arguments;
    EXPECT_EQ(outcome.out, "") << arguments;
    EXPECT_TRUE(outcome.err.starts_with("gqmm: ")) << outcome.err;
    EXPECT_PRED_FORMAT2(::testing::IsSubstring, message, outcome.err);
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  }

  [[nodiscard]] json run_json(const std::string& arguments, const std::string& environment = "") const {
    const Outcome outcome = run(arguments + " --format json", environment);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    return json::parse(outcome.out);
  }

  /// A float checkpoint "float.safetensors" with a tensor of each kind that `quantize` meets.
  void write_float_checkpoint() const {
    io::SafetensorsWriter writer(folder_.path() / "float.safetensors",
                                 {{"experts.weight", "F32", {3, 8, 128}},
                                  {"odd.weight", "F32", {4, 100}},
                                  {"norm.weight", "F32", {128}},
                                  {"ids", "I64", {2, 128}},
                                  {"bare", "BF16", {8, 256}}},
                                 {{"note", "kept"}}, true);
    std::vector<float> values(3 * 8 * 128);
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = std::sin(static_cast<float>(i));
    }
    const auto bytes = std::as_bytes(std::span(values));
    writer.write("experts.weight", bytes);
    writer.write("odd.weight", bytes.first(1600));
    writer.write("norm.weight", bytes.first(512));
    writer.write("ids", bytes.first(2048));
    // The upper halves of floats, so that the values are finite.
    std::vector<std::byte> halves;
    for (std::size_t i = 0; i < 8 * 256; ++i) {
      halves.insert(halves.end(), {bytes[4 * i + 2], bytes[4 * i + 3]});
    }
    writer.write("bare", halves);
    writer.commit();
  }

  [[nodiscard]] json real_config() const { return json::parse(io::MappedFile::open(model_ + "/config.json")->text()); }

  /// The real model's weights in the folder itself, with another config.json.
  void write_model(const std::string& config) const {
    std::error_code exists;
    std::filesystem::create_symlink(model_ + "/model.safetensors", folder_.path() / "model.safetensors", exists);
    folder_.write("config.json", config);
  }

  /// "experts.safetensors": layer "l" of `experts` matrices with N = 8, K = 128 in 4-bit affine groups of 64, all codes zero.
  void write_affine_experts(std::int64_t experts, const std::vector<float>& scales) const {
    const Shape groups = {experts, 8, 2};
    io::SafetensorsWriter writer(
        folder_.path() / "experts.safetensors",
        {{"l.weight", "U32", {experts, 8, 16}}, {"l.scales", "F32", groups}, {"l.biases", "F32", groups}},
        {{"quantization", R"({"mode": "affine", "bits": 4, "group_size": 64})"}}, true);
    const std::vector<std::uint32_t> zeros(static_cast<std::size_t>(experts) * 8 * 16);
    writer.write("l.weight", std::as_bytes(std::span(zeros)));
    writer.write("l.scales", std::as_bytes(std::span(scales)));
    writer.write("l.biases", std::as_bytes(std::span(zeros)).first(scales.size() * sizeof(float)));
    writer.commit();
  }

  io::TemporaryFolder folder_;
  const std::string model_ = GQMM_TEST_MODEL;
};

}  // namespace gqmm::cli
