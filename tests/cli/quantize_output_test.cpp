// Tests that gqmm quantize never writes a wrong file and never loses one.
#include "quantize_test_support.hpp"

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

namespace gqmm::cli {
namespace {

TEST_F(QuantizeCli, AFolderIsWholeAndHasEverySmallFile) {
  write_float_model("in", R"({"model_type": "qwen3_moe", "limit": Infinity, "big": 1e999, "quantization": null})");
  std::filesystem::create_directory(folder_.path() / "in/additional_chat_templates");
  std::filesystem::create_directory(folder_.path() / "in/original");
  for (const char* name : {"generation_config.json", "modeling.py", "chat_template.jinja", "additional_chat_templates/tool.jinja",
                           "empty.txt", "pytorch_model.bin", "original/params.json", ".gitattributes", "vocab.safetensors"}) {
    folder_.write(std::string("in/") + name, std::string(name) == "empty.txt" ? "" : name);
  }
  std::filesystem::create_symlink("../in/tokenizer.json", folder_.path() / "in/linked.json");
  ASSERT_EQ(run("quantize in out/ --max-shard-size 5KB").status, 0);
  std::vector<std::string> made = names();
  std::erase_if(made, [](const std::string& name) { return !name.starts_with("out"); });
  EXPECT_EQ(made,
            (std::vector<std::string>{"out", "out/additional_chat_templates", "out/additional_chat_templates/tool.jinja",
                                      "out/chat_template.jinja", "out/config.json", "out/empty.txt", "out/generation_config.json",
                                      "out/linked.json", "out/model-00001-of-00003.safetensors",
                                      "out/model-00002-of-00003.safetensors", "out/model-00003-of-00003.safetensors",
                                      "out/model.safetensors.index.json", "out/modeling.py", "out/tokenizer.json"}));
  EXPECT_EQ(text_of("out/modeling.py"), "modeling.py");
  EXPECT_FALSE(std::filesystem::is_symlink(folder_.path() / "out/linked.json"));
  const std::string config = text_of("out/config.json");
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, R"("limit": Infinity)", config);
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, R"("big": 1e999)", config);
  EXPECT_EQ(config.find("null"), std::string::npos) << config;
}

TEST_F(QuantizeCli, TheLargestFileIsAboveZero) {
  write_float_model("in");
  for (const std::string size : {"-5", "0", "-1GB", "0.0"}) {
    expect_error("quantize in out --max-shard-size=" + size, "--max-shard-size: " + size + " is not above zero");
  }
  EXPECT_EQ(run("quantize in out --max-shard-size 1").status, 0) << "one tensor in each file";
}

TEST_F(QuantizeCli, AFolderIsReadByInspectAndCheck) {
  write_float_model("in");
  const json result = run_json("quantize in out --bits 8");
  EXPECT_EQ(result["quantized"], 4);
  EXPECT_EQ(result["copied"], 2);
  EXPECT_EQ(run_json("inspect out")["tensors"].size(), 4U);
  EXPECT_EQ(run_json("check out --all --samples 50")["failed"], 0);
  expect_error("quantize out again", "quantized by MLX");
}

TEST_F(QuantizeCli, ForceReplacesOnlyAFolderThatItWrote) {
  write_float_model("in");
  ASSERT_EQ(run("quantize in out --max-shard-size 5KB").status, 0);
  const std::vector<std::string> before = names();
  const std::string index = text_of("out/model.safetensors.index.json");
  expect_error("quantize in out --bits 8", "exists already; --force replaces a folder that gqmm quantize wrote");
  folder_.write("out/notes.txt", "mine");
  expect_error("quantize in out --bits 8 --force", "holds \"notes.txt\", which gqmm quantize did not write");
  EXPECT_EQ(text_of("out/notes.txt"), "mine");
  EXPECT_EQ(text_of("out/model.safetensors.index.json"), index);
  std::filesystem::remove(folder_.path() / "out/notes.txt");
  std::filesystem::create_directory(folder_.path() / "out/mine");
  expect_error("quantize in out --bits 8 --force", "holds the folder \"mine\"");
  std::filesystem::remove(folder_.path() / "out/mine");
  ASSERT_EQ(run("quantize in out --bits 8 --force").status, 0);
  EXPECT_EQ(run_json("inspect out")["tensors"][0]["bits"], 8);
  EXPECT_EQ(names(), (std::vector<std::string>{"in", "in/config.json", "in/model.safetensors", "in/tokenizer.json", "out",
                                               "out/config.json", "out/model.safetensors", "out/model.safetensors.index.json",
                                               "out/tokenizer.json"}))
      << "no shard of the old model, no other folder";
  std::filesystem::create_directory(folder_.path() / "theirs");
  folder_.write("theirs/model.safetensors.index.json", "{}");
  expect_error("quantize in theirs --force", "which gqmm quantize did not write");
  std::filesystem::create_directory(folder_.path() / "empty");
  expect_error("quantize in empty", "exists already");
  EXPECT_EQ(run("quantize in empty --force").status, 0);
}

TEST_F(QuantizeCli, TheInputIsNeverTheOutput) {
  write_float_model("in");
  std::filesystem::create_directory_symlink("in", folder_.path() / "link");
  const std::string model = text_of("in/model.safetensors");
  for (const char* arguments : {"in in", "in in/", "in ./in", "in link", "link in", "link link"}) {
    for (const char* force : {"", " --force"}) {
      expect_error(std::string("quantize ") + arguments + force, "is the input itself; name another folder");
    }
  }
  expect_error("quantize in in/model.safetensors --force", "is a file of the input");
  std::filesystem::create_symlink("in/model.safetensors", folder_.path() / "out.safetensors");
  expect_error("quantize in out.safetensors --force", "is a file of the input");
  EXPECT_EQ(text_of("in/model.safetensors"), model);
}

TEST_F(QuantizeCli, TheOutputIsARegularFileOrNew) {
  write_float_checkpoint();
  write_float_model("in");
  ASSERT_EQ(::mkfifo((folder_.path() / "pipe.safetensors").c_str(), 0600), 0);
  ASSERT_EQ(::mkfifo((folder_.path() / "pipe").c_str(), 0600), 0);
  std::filesystem::create_symlink("absent", folder_.path() / "dangling");
  std::filesystem::create_directory(folder_.path() / "folder");
  folder_.write("file", "precious");
  for (const char* input : {"float.safetensors", "in"}) {
    expect_error(std::string("quantize --force ") + input + " pipe.safetensors", "is a named pipe");
  }
  expect_error("quantize --force float.safetensors /dev/null", "[/dev/null] is a device");
  expect_error("quantize --force float.safetensors dangling", "is a symbolic link that leads to no file");
  expect_error("quantize --force float.safetensors folder", "is a folder");
  for (const char* out : {"pipe", "dangling", "file", "/dev/null"}) {
    expect_error(std::string("quantize --force in ") + out, "exists already and is no folder");
  }
  expect_error("quantize in absent/out", "cannot create a file in its folder");
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  EXPECT_TRUE(std::filesystem::is_fifo(folder_.path() / "pipe"));
  EXPECT_TRUE(std::filesystem::is_fifo(folder_.path() / "pipe.safetensors"));
  EXPECT_EQ(text_of("file"), "precious");
}

/// A run that takes long enough to be interrupted. Its input is zeros, which take no space on the disk.
class InterruptedQuantize : public QuantizeCli {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(folder_.path() / "in");
    const std::string header = R"({"l.weight":{"dtype":"F16","shape":[4096,65536],"data_offsets":[0,536870912]}})";
    folder_.write("in/model.safetensors", io::safetensors_bytes(header, ""));
    std::filesystem::resize_file(folder_.path() / "in/model.safetensors", 8 + header.size() + 536870912);
    folder_.write("in/config.json", "{}");
    folder_.write("out.safetensors", "precious");
    before_ = names();
  }

  /// Sends `signal` to the program when it has opened its output, and returns the status of the run.
  [[nodiscard]] int interrupted(const std::vector<std::string>& arguments, int signal, bool with_names) const {
    const ::pid_t child = ::fork();
    if (child == 0) {
      if (::chdir(folder_.path().c_str()) != 0) {
        ::_exit(99);
      }
      if (with_names) {
        ::setenv("LD_PRELOAD", GQMM_NO_TMPFILE, 1);
        ::setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
      }
      std::vector<char*> argv = {const_cast<char*>(GQMM_PROGRAM), const_cast<char*>("quantize")};
      for (const std::string& argument : arguments) {
        argv.push_back(const_cast<char*>(argument.c_str()));
      }
      argv.push_back(nullptr);
      ::execv(GQMM_PROGRAM, argv.data());
      ::_exit(98);
    }
    int status = -1;
    while (!writes_a_file(child)) {
      if (::waitpid(child, &status, WNOHANG) == child) {
        return status;
      }
      ::usleep(1000);
    }
    ::kill(child, signal);
    ::waitpid(child, &status, 0);
    return status;
  }

  std::vector<std::string> before_;

 private:
  /// True if the program has a descriptor of a new file in the folder, and all space of that file is reserved.
  [[nodiscard]] bool writes_a_file(::pid_t child) const {
    const std::filesystem::path descriptors = "/proc/" + std::to_string(child) + "/fd";
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(descriptors, error)) {
      const std::string target = std::filesystem::read_symlink(entry.path(), error);
      struct stat status = {};
      if (target.starts_with(std::filesystem::canonical(folder_.path()).native()) &&
          target.find("model.safetensors") == std::string::npos && ::stat(entry.path().c_str(), &status) == 0 &&
          status.st_size > 100'000'000) {
        return true;
      }
    }
    return false;
  }
};

TEST_F(InterruptedQuantize, LeavesNothingAndTheOldFileWhole) {
  for (const bool with_names : {false, true}) {
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU}) {
      for (const std::vector<std::string>& arguments :
           {std::vector<std::string>{"in", "out.safetensors", "--force"}, std::vector<std::string>{"in", "out"}}) {
        const int status = interrupted(arguments, signal, with_names);
        EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal) << status;
        EXPECT_EQ(names(), before_) << "after signal " << signal << (with_names ? " without O_TMPFILE" : "");
        EXPECT_EQ(text_of("out.safetensors"), "precious");
      }
    }
  }
}

TEST_F(InterruptedQuantize, LeavesNothingEvenWhenItIsKilled) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"in", "out.safetensors", "--force"}, std::vector<std::string>{"in", "out"}}) {
    const int status = interrupted(arguments, SIGKILL, false);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    EXPECT_EQ(names(), before_);
    EXPECT_EQ(text_of("out.safetensors"), "precious");
  }
}

TEST_F(QuantizeCli, ALimitForFileSizesIsAnError) {
  write_float_model("in");
  folder_.write("out.safetensors", "precious");
  const auto before = names();
  for (const char* arguments : {"in out.safetensors --force", "in out"}) {
    const std::string command = "cd " + folder_.path().native() + " && trap - XFSZ && ulimit -f 4 && '" + GQMM_PROGRAM +
                                "' quantize " + arguments + " 2>/dev/null";
    const int status = std::system(("bash -c \"" + command + "\"").c_str());
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 2) << status;
    EXPECT_EQ(names(), before);
    EXPECT_EQ(text_of("out.safetensors"), "precious");
  }
}

TEST_F(QuantizeCli, AFullDiskIsAnErrorThatLeavesNothing) {
  write_float_model("in");
  const auto disk = folder_.path() / "disk";
  std::filesystem::create_directory(disk);
  if (::mount("none", disk.c_str(), "tmpfs", 0, "size=12k") != 0) {
    GTEST_SKIP() << "only root may mount a small file system";
  }
  folder_.write("disk/out.safetensors", "precious");
  const auto before = names();
  for (const char* out : {"disk/out.safetensors --force", "disk/out"}) {
    expect_error(std::string("quantize in ") + out, "No space left on device");
    EXPECT_EQ(names(), before);
    EXPECT_EQ(text_of("disk/out.safetensors"), "precious");
  }
  ::umount2(disk.c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace gqmm::cli
