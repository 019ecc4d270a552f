// Tests that a pending file is either complete or absent. SafetensorsWriter and PackedWeights::save depend on that.
#include "io/pending_file.hpp"

#include "io_test_files.hpp"
#include "system_calls.hpp"

#include <gqmm/interrupt.hpp>

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace gqmm::io {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

::mode_t mode_of(const std::filesystem::path& path) {
  struct stat status = {};
  EXPECT_EQ(::lstat(path.c_str(), &status), 0) << path;
  return status.st_mode;
}

void save(const std::filesystem::path& path, std::string_view text) {
  const OutputPath target = inspect_output(path);
  PendingFile file(folder_of(target.path), path.native());
  file.reserve(text.size());
  file.write_at(0, bytes_of(text));
  file.publish(target, true);
}

/// Runs `action` in a child process, which exits with 0 if it returns true.
template <class Action>
int status_in_child(Action action) {
  const ::pid_t child = ::fork();
  if (child == 0) {
    ::_exit(action() ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return status;
}

TEST(OutputPath, IsARegularFileOrNothingYet) {
  const TemporaryFolder folder;
  EXPECT_FALSE(inspect_output(folder.path() / "new").mode);
  ::chmod(folder.write("file", "old").c_str(), 0640);
  EXPECT_EQ(inspect_output(folder.path() / "file").mode, ::mode_t{0640});
}

TEST(OutputPath, NeverIsADeviceAPipeASocketOrAFolder) {
  const TemporaryFolder folder;
  const auto at = [&](const char* name) { return folder.path() / name; };
  ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
  std::filesystem::create_directory(at("folder"));
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  ::sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  std::strncpy(address.sun_path, at("socket").c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(fd, reinterpret_cast<const ::sockaddr*>(&address), sizeof address), 0);
  ::close(fd);
  std::filesystem::create_symlink("/dev/null", at("to-device"));
  std::filesystem::create_symlink("pipe", at("to-pipe"));
  EXPECT_ERROR_WITH(inspect_output("/dev/null"),
                    "[/dev/null] is a device, which is never replaced; name a regular file or a new one");
  EXPECT_ERROR_WITH(save(at("to-device"), "new"), "to-device] is a device");
  EXPECT_ERROR_WITH(save(at("pipe"), "new"), "pipe] is a named pipe");
  EXPECT_ERROR_WITH(save(at("to-pipe"), "new"), "to-pipe] is a named pipe");
  EXPECT_ERROR_WITH(save(at("socket"), "new"), "socket] is a socket");
  EXPECT_ERROR_WITH(save(at("folder"), "new"), "folder] is a folder");
  EXPECT_TRUE(S_ISFIFO(mode_of(at("pipe"))));
  EXPECT_TRUE(S_ISCHR(mode_of("/dev/null")));
  EXPECT_TRUE(S_ISSOCK(mode_of(at("socket"))));
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"folder", "pipe", "socket", "to-device", "to-pipe"}));
}

TEST(OutputPath, ANameThatIsNoneIsAnError) {
  const TemporaryFolder folder;
  EXPECT_ERROR_WITH(inspect_output(""), "does not name a file");
  EXPECT_ERROR_WITH(inspect_output("."), "does not name a file");
  EXPECT_ERROR_WITH(inspect_output(folder.path() / "new" / ""), "does not name a file");
  EXPECT_ERROR_WITH(inspect_output(folder.write("file", "") / "x"), "Not a directory");
}

TEST(OutputPath, FollowsALinkToAFileAndRefusesOneThatLeadsNowhere) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.path() / "sub");
  folder.write("sub/file", "old");
  std::filesystem::create_symlink("sub/file", folder.path() / "link");
  std::filesystem::create_symlink("absent", folder.path() / "dangling");
  std::filesystem::create_symlink("loop", folder.path() / "loop");
  save(folder.path() / "link", "new");
  EXPECT_TRUE(S_ISLNK(mode_of(folder.path() / "link")));
  EXPECT_EQ(text_of(folder.path() / "sub/file"), "new");
  EXPECT_EQ(names_in(folder.path() / "sub"), std::vector<std::string>{"file"});
  EXPECT_ERROR_WITH(save(folder.path() / "dangling", "new"), "is a symbolic link that leads to no file");
  EXPECT_ERROR_WITH(save(folder.path() / "loop", "new"), "is a symbolic link that leads to no file");
  EXPECT_TRUE(S_ISLNK(mode_of(folder.path() / "dangling")));
}

TEST(OutputPath, IsNoFileThatThisUserMayNotWrite) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "only root may become another user";
  }
  const TemporaryFolder folder;
  ::chmod(folder.path().c_str(), 0777);
  ::chmod(folder.write("theirs", "precious").c_str(), 0444);
  const int status = status_in_child([&] {
    constexpr ::uid_t nobody = 65534;
    return ::seteuid(nobody) == 0 && error_of([&] {
                                       save(folder.path() / "theirs", "new");
                                     }).find("theirs] cannot be replaced: Permission denied") != std::string::npos;
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_EQ(text_of(folder.path() / "theirs"), "precious");
}

TEST(PendingFile, HasNoNameBeforeItIsPublished) {
  const TemporaryFolder folder;
  PendingFile file(folder.path(), "f");
  file.write_at(0, bytes_of("new"));
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{}) << "where the file system has O_TMPFILE";
  file.publish({folder.path() / "f", {}}, false);
  EXPECT_EQ(text_of(folder.path() / "f"), "new");
}

TEST(PendingFile, NeverReplacesAFileThatAppearsMeanwhile) {
  const TemporaryFolder folder;
  PendingFile file(folder.path(), "f");
  folder.write("f", "precious");
  EXPECT_ERROR_WITH(file.publish({folder.path() / "f", {}}, false), "[f] exists already");
  EXPECT_EQ(text_of(folder.path() / "f"), "precious");
}

TEST(PendingFile, DoesNotReplaceAPipeThatAppearsMeanwhile) {
  const TemporaryFolder folder;
  const OutputPath target = inspect_output(folder.path() / "f");
  PendingFile file(folder.path(), "f");
  ASSERT_EQ(::mkfifo(target.path.c_str(), 0600), 0);
  EXPECT_ERROR_WITH(file.publish(target, true), "is a named pipe");
  EXPECT_TRUE(S_ISFIFO(mode_of(target.path)));
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
}

TEST(PendingFile, KeepsThePermissionsOfTheFileThatItReplaces) {
  const TemporaryFolder folder;
  ::chmod(folder.write("secret", "old").c_str(), 0600);
  save(folder.path() / "secret", "new");
  EXPECT_EQ(mode_of(folder.path() / "secret") & 0777U, 0600U);
  EXPECT_EQ(text_of(folder.path() / "secret"), "new");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"secret"});
}

TEST(PendingFile, KeepsTheOwnerOfTheFileThatItReplaces) {
  const TemporaryFolder folder;
  if (::chown(folder.write("theirs", "old").c_str(), 1234, 1235) != 0) {
    GTEST_SKIP() << "only root may give files away";
  }
  save(folder.path() / "theirs", "new");
  struct stat status = {};
  ASSERT_EQ(::stat((folder.path() / "theirs").c_str(), &status), 0);
  EXPECT_EQ(status.st_uid, 1234U);
  EXPECT_EQ(status.st_gid, 1235U);
  EXPECT_EQ(text_of(folder.path() / "theirs"), "new");
}

TEST(PendingFile, TakesTheUmaskOfTheProcessWithoutTouchingIt) {
  const TemporaryFolder folder;
  const ::mode_t mask = ::umask(027);
  system_calls().umask_calls = 0;
  save(folder.path() / "f", "new");
  save(folder.path() / "f", "newer");
  EXPECT_EQ(system_calls().umask_calls, 0) << "another thread that creates a file at that moment gets wrong permissions";
  ::umask(mask);
  EXPECT_EQ(mode_of(folder.path() / "f") & 0777U, 0640U);
}

TEST(PendingFile, TheLimitForFileSizesIsAnErrorAndNoSignal) {
  const TemporaryFolder folder;
  folder.write("f", "precious");
  const int status = status_in_child([&] {
    ::signal(SIGXFSZ, SIG_DFL);
    const ::rlimit limit = {4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::string text(10'000, 'x');
    const std::string reserved = error_of([&] { save(folder.path() / "f", text); });
    const std::string written = error_of([&] {
      PendingFile file(folder.path(), "f");
      file.write_at(0, bytes_of(text));
    });
    ::sigset_t pending;
    ::sigpending(&pending);
    return reserved.find("File too large") != std::string::npos &&
           written.find("cannot write: File too large") != std::string::npos && ::sigismember(&pending, SIGXFSZ) == 0;
  });
  EXPECT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(text_of(folder.path() / "f"), "precious");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
}

TEST(PendingFile, ASignalForFileSizesThatWaitedBeforeWaitsStill) {
  const TemporaryFolder folder;
  const int status = status_in_child([&] {
    ::sigset_t signal;
    ::sigemptyset(&signal);
    ::sigaddset(&signal, SIGXFSZ);
    ::sigprocmask(SIG_BLOCK, &signal, nullptr);
    ::raise(SIGXFSZ);
    save(folder.path() / "f", "new");
    ::sigset_t pending;
    ::sigpending(&pending);
    return ::sigismember(&pending, SIGXFSZ) == 1;
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(PendingFile, AFullDiskIsAnErrorThatLeavesTheOldFileWhole) {
  const TemporaryFolder folder;
  if (::mount("none", folder.path().c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "only root may mount a small file system";
  }
  folder.write("f", "precious");
  EXPECT_ERROR_WITH(save(folder.path() / "f", std::string(100'000, 'x')), "cannot reserve 100000 bytes: No space left on device");
  EXPECT_ERROR_WITH(
      [&] {
        PendingFile file(folder.path(), "f");
        file.write_at(0, bytes_of(std::string(100'000, 'x')));
      }(),
      "cannot write: No space left on device");
  EXPECT_EQ(text_of(folder.path() / "f"), "precious");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
  save(folder.path() / "f", std::string(10'000, 'x'));  // the space is free again
  EXPECT_EQ(std::filesystem::file_size(folder.path() / "f"), 10'000U);
  ::umount2(folder.path().c_str(), MNT_DETACH);
}

/// Runs `action` under a check that wants to stop as soon as it is asked.
template <class Action>
void interrupt(Action action) {
  const InterruptCheck check([] { return true; });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // it is asked every 50 ms
  EXPECT_THROW(action(), Interrupted);
}

TEST(PendingFile, StopsWhenItsCallersCheckAsksToAndLeavesNothing) {
  for (const int without_name : {0, EOPNOTSUPP}) {
    const Failing open(system_calls().open_without_name, without_name);
    const TemporaryFolder folder;
    folder.write("f", "precious");
    interrupt([&] { save(folder.path() / "f", "new"); });
    interrupt([&] { PendingFile(folder.path(), "f").write_at(0, bytes_of("new")); });
    EXPECT_EQ(text_of(folder.path() / "f"), "precious");
    EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
  }
}

TEST(PendingFile, IsWholeWhateverThePiecesInWhichItIsWritten) {
  const TemporaryFolder folder;
  std::string text((std::size_t{5} << 20) + 5, ' ');
  for (std::size_t i = 0; i < text.size(); ++i) {
    text[i] = static_cast<char>('a' + i % 23);
  }
  save(folder.path() / "f", text);
  EXPECT_TRUE(text_of(folder.path() / "f") == text);
}

TEST(PendingFile, NothingIsLeftWhenTheProcessIsKilled) {
  const TemporaryFolder folder;
  folder.write("f", "precious");
  const int status = status_in_child([&] {
    PendingFile file(folder.path(), "f");
    file.write_at(0, bytes_of("new"));
    ::raise(SIGKILL);
    return true;
  });
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(text_of(folder.path() / "f"), "precious");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
}

/// The promises of every way in which a file is published.
void expect_whole_or_absent(const std::filesystem::path& folder) {
  const auto path = folder / "f";
  {
    PendingFile file(folder, "f");
    file.write_at(0, bytes_of("never named"));
  }
  EXPECT_EQ(names_in(folder), std::vector<std::string>{});
  {
    PendingFile file(folder, "f");
    file.write_at(0, bytes_of("new"));
    file.publish({path, {}}, false);
  }
  EXPECT_EQ(text_of(path), "new");
  save(path, "newer");
  EXPECT_EQ(text_of(path), "newer");
  {
    PendingFile file(folder, "f");
    EXPECT_ERROR_WITH(file.publish({path, {}}, false), "[f] exists already");
  }
  {
    const Failing fsync(system_calls().fsync, EIO);
    EXPECT_ERROR_WITH(save(path, "never whole"), "cannot write: Input/output error");
  }
  {
    const Failing rename(system_calls().rename, EACCES);
    EXPECT_ERROR_WITH(save(path, "never named"), "cannot put the finished file in its place: Permission denied");
  }
  EXPECT_EQ(text_of(path), "newer");
  EXPECT_EQ(names_in(folder), std::vector<std::string>{"f"});
}

TEST(PendingFile, IsWholeOrAbsentWithoutAName) {
  const TemporaryFolder folder;
  expect_whole_or_absent(folder.path());
}

TEST(PendingFile, IsWholeOrAbsentWhereEveryFileHasAName) {
  const TemporaryFolder folder;
  const Failing without_name(system_calls().open_without_name, EOPNOTSUPP);
  expect_whole_or_absent(folder.path());
}

TEST(PendingFile, IsWholeOrAbsentWhereThereAreNoHardLinks) {
  const TemporaryFolder folder;
  const Failing without_name(system_calls().open_without_name, EISDIR);
  const Failing link(system_calls().link, EPERM);
  expect_whole_or_absent(folder.path());
}

TEST(PendingFile, IsWholeOrAbsentWhereRenameAlwaysReplaces) {
  const TemporaryFolder folder;
  const Failing without_name(system_calls().open_without_name, EOPNOTSUPP);
  const Failing link(system_calls().link, EPERM);
  const Failing rename(system_calls().rename_with_flags, EINVAL);
  expect_whole_or_absent(folder.path());
}

TEST(PendingFile, AFileThatCannotGetItsNameIsAnError) {
  const TemporaryFolder folder;
  const Failing link(system_calls().link, EDQUOT);
  EXPECT_ERROR_WITH(save(folder.path() / "f", "new"), "cannot put the finished file in its place: Disk quota exceeded");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{});
}

TEST(SignalsHeldBack, ArriveAtTheEnd) {
  const int status = status_in_child([] {
    ::signal(SIGTERM, SIG_DFL);
    {
      const SignalsHeldBack held;
      ::raise(SIGTERM);
    }
    return true;
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

}  // namespace
}  // namespace gqmm::io
