#include "bench.hpp"

#include <gtest/gtest.h>

#include <unistd.h>
#include <algorithm>
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

  static int run(const std::string& arguments) {
    int exit_status = 0;
    CLI::App program;
    add_command(program, exit_status);
    program.parse("bench " + arguments);
    return exit_status;
  }

  static std::string message_of(const std::string& arguments) {
    try {
      run(arguments);
    } catch (const std::exception& error) {
      return error.what();
    }
    return "no error";
  }

  std::filesystem::path folder_;
};

TEST_F(Command, ExplainsThePlanOfEachCaseAndMeasuresNothing) {
  const std::string shape = "--experts 4 --n 96 --k 128 --top 2 --threads 1 --routing balanced --explain ";
  testing::internal::CaptureStdout();
  EXPECT_EQ(run(shape + "--tokens 2,64 --dtype bfloat16 --format json"), 0);
  const auto plans = nlohmann::json::parse(testing::internal::GetCapturedStdout());
  ASSERT_EQ(plans.size(), 2U);
  for (const auto& plan : plans) {
    EXPECT_FALSE(plan.at("isa").get<std::string>().empty());
    EXPECT_EQ(plan.at("threads"), 1);
    ASSERT_EQ(plan.at("segments").size(), 4U);
    for (const auto& segment : plan.at("segments")) {
      EXPECT_EQ(segment.at("slices"), 2);
      EXPECT_GE(segment.at("items").get<int>(), 1);
      EXPECT_GE(segment.at("mr").get<int>(), 1);
      EXPECT_EQ(segment.at("nr").get<int>() % 16, 0);
    }
  }
  EXPECT_EQ(plans[0].at("segments")[0].at("rows"), 1);
  EXPECT_EQ(plans[0].at("segments")[0].at("path"), "integer_gemv");
  EXPECT_EQ(plans[1].at("segments")[3].at("rows"), 32);
  EXPECT_EQ(plans[1].at("segments")[3].at("expert"), 3);
  EXPECT_EQ(plans[1].at("segments")[3].at("path"), "integer_gemm");

  testing::internal::CaptureStdout();
  EXPECT_EQ(run(shape + "--tokens 64"), 0);
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_NE(text.find("T=64"), std::string::npos) << text;
  EXPECT_NE(text.find("integer_gemm"), std::string::npos) << text;
}

TEST_F(Command, MeasuresEveryCombinationAndWritesBothFiles) {
  const std::string small =
      "--experts 4 --n 32 --k 128 --top 2 --tokens 1,3 --dtype float16,float32 --threads 1 --repetitions 1 --revision abc ";
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
      EXPECT_EQ(document.at("machine").at("gqmm_revision"), "abc");
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

TEST_F(Command, ACaseSlowerThanTheSavedFiguresIsExitStatusOne) {
  const std::string saved = (folder_ / "saved.json").string();
  const std::string better = (folder_ / "better.json").string();
  EXPECT_EQ(run("--experts 4 --n 32 --k 128 --tokens 1 --threads 1 --repetitions 1 --pool 1 --peers none --json " + saved), 0);
  nlohmann::json document = nlohmann::json::parse(std::ifstream(saved));
  for (auto& figures : document.at("cases")) {
    figures["repetitions"] = 1;  // also where the machine that runs this test was busy
    for (const char* limit : {"arithmetic", "memory"}) {
      figures[limit]["fraction"]["median"] = 2 * figures[limit]["fraction"]["median"].get<double>();
    }
  }
  std::ofstream(better) << document;
  EXPECT_EQ(run("--compare " + better + " --measured " + better), 0);
  for (auto& figures : document.at("cases")) {
    for (const char* limit : {"arithmetic", "memory"}) {
      figures[limit]["fraction"]["median"] = figures[limit]["fraction"]["median"].get<double>() / 2;
    }
  }
  std::ofstream(saved) << document;
  EXPECT_EQ(run("--compare " + better + " --measured " + saved), 1);
  EXPECT_EQ(run("--tolerance 60% --compare " + better + " --measured " + saved), 0);
  EXPECT_EQ(run("--compare " + saved + " --measured " + better), 0);
}

TEST_F(Command, OfAnOptionWithOneValueTheLastCountsAndListsAreJoined) {
  const auto other = folder_ / "other";
  run("--peers no/such/python --results " + folder_.string() +
      " --repetitions 5 --tokens 1 --pages huge --experts 4 --n 32 --k 128 " + "--threads 1 --pool 1 --peers none --results " +
      other.string() + " --repetitions 1 --tokens 2 --pages small");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(other), {}), 2);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1) << "files where the first --results said";
  for (const auto& entry : std::filesystem::directory_iterator(other)) {
    if (entry.path().extension() == ".json") {
      const auto document = nlohmann::json::parse(std::ifstream(entry.path()));
      EXPECT_EQ(document.at("method").at("repetitions"), 1);
      EXPECT_EQ(document.at("method").at("weight_pages"), "small");
      ASSERT_EQ(document.at("cases").size(), 2U);
      EXPECT_EQ(document.at("cases").at(0).at("tokens"), 1);
      EXPECT_EQ(document.at("cases").at(1).at("tokens"), 2);
    }
  }
}

TEST_F(Command, ComparingNothingIsAnError) {
  const std::string saved = (folder_ / "saved.json").string();
  run("--experts 4 --n 32 --k 128 --tokens 1 --threads 1 --repetitions 1 --pool 1 --peers none --json " + saved);
  nlohmann::json document = nlohmann::json::parse(std::ifstream(saved));
  document.at("cases").at(0)["repetitions"] = 0;
  std::ofstream(saved) << document;
  EXPECT_NE(message_of("--compare " + saved + " --measured " + saved).find("no case could be compared"), std::string::npos);
  EXPECT_NE(message_of("--tokens 1 --compare " + saved).find("--pool 1, these with --pool"), std::string::npos);
  EXPECT_NE(message_of("--tokens 1 --pool 1 --pages huge --compare " + saved).find("--pages default, these with --pages huge"),
            std::string::npos);
}

TEST_F(Command, FiguresOfAnotherMachineAreRefusedBeforeAnythingIsMeasured) {
  const std::string saved = (folder_ / "saved.json").string();
  std::ofstream(saved) << R"({"gqmm_bench": 1, "machine": {"cpu": "Other CPU", "processors": 1000}, "cases": []})";
  try {
    run("deepseek-v3 --tokens 100000 --compare " + saved);
    FAIL() << "no error";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("Other CPU"), std::string::npos) << error.what();
  }
}

TEST_F(Command, TheNamesOfASuitesCasesAreListedAndNarrowed) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(run("--suite limits --list --threads 1 --isa scalar --only T=16,packed"), 0);
  const std::string names = testing::internal::GetCapturedStdout();
  EXPECT_EQ(std::count(names.begin(), names.end(), '\n'), 3) << names;
  EXPECT_THROW(run("--suite limits --list --only no-such-case"), std::invalid_argument);
  EXPECT_THROW(run("--suite limits --tokens 3"), CLI::ExcludesError);
  EXPECT_THROW(run("--suite limits mixtral-8x7b"), CLI::ExcludesError);
}

TEST_F(Command, ANumberThatIsNotAllowedIsNamedWithWhatIs) {
  for (const char* option : {"--tokens", "--threads", "--repetitions", "--experts", "--top", "--pool"}) {
    for (const char* value : {"0", "abc", "1.5", "-3", "3x"}) {
      EXPECT_EQ(message_of(std::string(option) + " " + value),
                std::string(option) + ": '" + value + "' is not a whole number above 0");
    }
  }
  EXPECT_EQ(message_of("--tokens 1,0"), "--tokens: '0' is not a whole number above 0");
  EXPECT_EQ(message_of("--threads 3000000000"), "--threads: 3000000000 is too large; 4096 is the largest number allowed");
  EXPECT_EQ(message_of("--tokens 99999999999999999999"),
            "--tokens: 99999999999999999999 is too large; 9223372036854775807 is the largest number allowed");
  for (const char* value : {"0", "-1", "inf", "nan", "soon"}) {
    EXPECT_EQ(message_of(std::string("--peer-seconds ") + value),
              std::string("--peer-seconds: '") + value + "' is not a number above 0");
  }
  EXPECT_EQ(message_of("mlx-lm --width 0"), "--width: '0' is not a whole number above 0");
}

TEST_F(Command, APoolLargerThanTheMemoryIsAnErrorThatNamesBoth) {
  const std::string message = message_of("--tokens 1 --threads 1 --peers none --pool 1000000000");
  EXPECT_NE(message.find("a pool of 1048576.0 GB and "), std::string::npos) << message;
  EXPECT_NE(message.find(" GB of memory are free; give a smaller --pool"), std::string::npos) << message;
}

TEST_F(Command, APythonThatCannotSetUpThePeersIsANoteInTheReport) {
  const std::string path = (folder_ / "figures.json").string();
  const std::string command =
      "--experts 4 --n 32 --k 128 --tokens 1 --threads 1 --repetitions 1 --pool 1 --json " + path + " --peers ";
  for (const auto& [python, why] : {std::pair{"exec /bin/true", "the process ended without an answer"},
                                    {R"(read line; echo '{"error": "ImportError: No module"}')", "ImportError: No module"}}) {
    const std::string program = (folder_ / "python").string();
    std::ofstream(program) << "#!/bin/sh\n" << python << '\n';
    std::filesystem::permissions(program, std::filesystem::perms::owner_all);
    run(command + program);
    const auto peers = nlohmann::json::parse(std::ifstream(path)).at("cases").at(0).at("peers");
    ASSERT_EQ(peers.size(), 1U);
    EXPECT_EQ(peers.at(0).at("skipped"), "not measured by " + program + ": " + why);
  }
}

TEST_F(Command, FilesThatCannotBeWrittenAreAnErrorBeforeAnythingIsMeasured) {
  const std::string file = (folder_ / "file").string();
  std::ofstream(file) << "kept";
  const std::string slow = "deepseek-v3 --tokens 100000 ";
  EXPECT_EQ(message_of(slow + "--json " + folder_.string()),
            "[" + folder_.string() + "] is a folder, which is never replaced; name a regular file or a new one");
  EXPECT_NE(message_of(slow + "--markdown " + file + "/a.md").find("[" + file + "/a.md] cannot be written: "), std::string::npos);
  EXPECT_NE(message_of(slow + "--results " + file).find("[" + file + "/cases-"), std::string::npos);
  EXPECT_NE(message_of("mlx-lm --python /bin/true --json " + file + "/a").find("[" + file + "/a] cannot be written: "),
            std::string::npos);
  // Nothing is left of the attempt where a later one fails.
  const std::string fresh = (folder_ / "fresh").string();
  EXPECT_NE(message_of(slow + "--json " + file + " --markdown " + fresh + " --results " + file), "no error");
  EXPECT_FALSE(std::filesystem::exists(fresh));
  std::string kept;
  std::ifstream(file) >> kept;
  EXPECT_EQ(kept, "kept");
}

TEST_F(Command, ACheckpointDecidesItsFormat) {
  for (const char* option : {"--mode mxfp4", "--bits 4", "--group-size 64"}) {
    const std::string message = message_of(GQMM_TEST_MODEL " --list " + std::string(option));
    EXPECT_NE(message.find("affine 4-bit in groups of 64"), std::string::npos) << option << ": " << message;
  }
  EXPECT_EQ(message_of(GQMM_TEST_MODEL " --list"), "no error");
}

TEST_F(Command, AModelOnTheHubAndAMissingPathAreNoShapes) {
  EXPECT_NE(message_of("mlx-community/Foo-4bit --list").find("`hf download mlx-community/Foo-4bit --local-dir FOLDER`"),
            std::string::npos);
  EXPECT_EQ(message_of("./absent --list"), "[./absent] cannot open: No such file or directory");
  EXPECT_EQ(message_of("absent --list").find("hf download"), std::string::npos);
}

TEST_F(Command, ExpertsPerTokenAreReadWhereverModelsKeepThem) {
  std::filesystem::create_symlink(GQMM_TEST_MODEL "/model.safetensors", folder_ / "model.safetensors");
  for (const std::string config :
       {R"({"num_experts_per_tok": 4})", R"({"num_experts_per_tok": 4.0})", R"({"experts_per_token": 4})",
        R"({"text_config": {"num_experts_per_tok": 4}, "limit": [0, Infinity]})"}) {
    std::ofstream(folder_ / "config.json") << R"({"quantization": {"bits": 4, "group_size": 64}, )" << config.substr(1);
    EXPECT_EQ(message_of(folder_.string() + " --list"), "no error") << config;
  }
  std::ofstream(folder_ / "config.json") << R"({"quantization": {"bits": 4, "group_size": 64}, "num_experts_per_tok": NaN})";
  EXPECT_NE(message_of(folder_.string() + " --list").find("does not say how many experts a token uses"), std::string::npos);
}

TEST_F(Command, RoutingsAreMeasuredSideBySide) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(run("qwen3-30b-a3b/gate --tokens 512 --routing uniform half --threads 2 --isa scalar --list"), 0);
  EXPECT_EQ(testing::internal::GetCapturedStdout(),
            "qwen3-30b-a3b/gate T=512 affine 4-bit g64 bfloat16 default in place uniform scalar 2 threads\n"
            "qwen3-30b-a3b/gate T=512 affine 4-bit g64 bfloat16 default in place half scalar 2 threads\n");
  EXPECT_NE(message_of("--routing uniform,most").find("use uniform, balanced, learned, half or one"), std::string::npos);
}

TEST_F(Command, FormerNamesOfInstructionSetsAreAcceptedAndNotPrinted) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(run("qwen3-30b-a3b/gate --tokens 512 --threads 1 --isa avx512,neon,i8mm,avx2 --list"), 0);
  std::string expected;
  for (const char* name : {"avx512vnni", "neon-dotprod", "neon-i8mm", "avx2"}) {
    expected +=
        std::string("qwen3-30b-a3b/gate T=512 affine 4-bit g64 bfloat16 default in place uniform ") + name + " 1 thread\n";
  }
  EXPECT_EQ(testing::internal::GetCapturedStdout(), expected);
}

TEST_F(Command, ContradictionsAreErrorsWithARemedy) {
  EXPECT_THROW(run("--experts 4 --n 32"), std::invalid_argument);
  EXPECT_THROW(run("--experts 4 --n 32 --k 64 --top 5"), std::invalid_argument);
  EXPECT_THROW(run("--k 128"), std::invalid_argument);
  EXPECT_THROW(run("qwen3-30b-a3b/gate --n 128"), std::invalid_argument);
  EXPECT_THROW(run("qwen3-30b-a3b/gate --top 1"), std::invalid_argument);
  EXPECT_THROW(run("no-such-shape"), std::invalid_argument);
  EXPECT_THROW(run("--peers no/such/python"), std::invalid_argument);
  EXPECT_THROW(run("--bits 7"), std::invalid_argument);
  EXPECT_THROW(run("--unsteady 10"), std::invalid_argument);
  EXPECT_THROW(run("--tolerance 5%"), CLI::RequiresError);
  EXPECT_THROW(run("--isa pentium --tokens 1 --pool 1"), std::invalid_argument);
}

}  // namespace
}  // namespace gqmm::bench
