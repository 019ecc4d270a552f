// Tests that a new folder is either complete or absent.
#include "io/new_folder.hpp"

#include "io_test_files.hpp"
#include "system_calls.hpp"

#include <sys/stat.h>
#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <string>
#include <vector>

namespace gqmm::io {
namespace {

const std::vector<std::string> index_and_text = {index_name, "inner/text"};

std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    names.push_back(entry.path().lexically_relative(folder));
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// Writes a folder with an index that lists its two files, and `text` in the other.
void write_folder(const NewFolder& folder, std::string_view text) {
  const std::string index = R"({"metadata": {"gqmm_files": ["model.safetensors.index.json", "inner/text"]}})";
  std::vector<PendingFile> files;
  for (const std::string& name : index_and_text) {
    files.push_back(folder.new_file(name));
    files.back().write_at(0, std::as_bytes(std::span(name == index_name ? std::string_view(index) : text)));
  }
  folder.commit(index_and_text, [&](const std::filesystem::path& inside) {
    for (std::size_t i = 0; i < files.size(); ++i) {
      files[i].publish({inside / index_and_text[i], {}}, false);
    }
  });
}

const std::vector<std::string> only_out = {"out", "out/inner", "out/inner/text", "out/model.safetensors.index.json"};

void expect_replaced(const std::filesystem::path& folder) {
  const auto out = folder / "out";
  write_folder(NewFolder(out, false), "old");
  EXPECT_EQ(names_in(folder), only_out);
  EXPECT_ERROR_WITH(NewFolder(out, false), "exists already; --force replaces a folder that gqmm quantize wrote");
  write_folder(NewFolder(out / "", true), "new");
  EXPECT_EQ(text_of(out / "inner/text"), "new");
  EXPECT_EQ(names_in(folder), only_out);
}

TEST(NewFolder, ReplacesOneThatGqmmWroteOnRequest) {
  const TemporaryFolder folder;
  expect_replaced(folder.path());
}

TEST(NewFolder, ReplacesOneWhereNamesCannotBeExchanged) {
  const TemporaryFolder folder;
  const Failing rename(system_calls().rename_with_flags, EINVAL);
  expect_replaced(folder.path());
}

TEST(NewFolder, IsAbsentUnlessEveryFileIsThere) {
  const TemporaryFolder folder;
  const NewFolder out(folder.path() / "out", false);
  EXPECT_THROW(out.commit({"a", "inner/b"},
                          [&](const std::filesystem::path& inside) {
                            out.new_file("a").publish({inside / "a", {}}, false);
                            throw std::runtime_error("the disk is full");
                          }),
               std::runtime_error);
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{});
}

TEST(NewFolder, DoesNotReplaceWhatAppearsMeanwhile) {
  const TemporaryFolder folder;
  const NewFolder fresh(folder.path() / "out", false);
  folder.write("out", "precious");
  EXPECT_ERROR_WITH(write_folder(fresh, "new"), "exists already and is no folder");
  EXPECT_EQ(text_of(folder.path() / "out"), "precious");
  std::filesystem::remove(folder.path() / "out");
  write_folder(NewFolder(folder.path() / "out", false), "old");
  const NewFolder again(folder.path() / "out", true);
  folder.write("out/notes", "precious");
  EXPECT_ERROR_WITH(write_folder(again, "new"), "holds \"notes\", which gqmm quantize did not write");
  EXPECT_EQ(text_of(folder.path() / "out/notes"), "precious");
  EXPECT_EQ(text_of(folder.path() / "out/inner/text"), "old");
  EXPECT_EQ(names_in(folder.path()).size(), only_out.size() + 1);
}

TEST(NewFolder, RemovesNothingOutsideTheFolderWhateverTheIndexNames) {
  const TemporaryFolder folder;
  folder.write("precious", "precious");
  std::filesystem::create_directory(folder.path() / "out");
  folder.write(std::string("out/") + index_name,
               R"({"metadata": {"gqmm_files": ["model.safetensors.index.json", "../precious", 1]}})");
  write_folder(NewFolder(folder.path() / "out", true), "new");
  EXPECT_EQ(text_of(folder.path() / "precious"), "precious");
}

TEST(NewFolder, HasThePermissionsOfAnyNewFolder) {
  const TemporaryFolder folder;
  const ::mode_t mask = ::umask(027);
  write_folder(NewFolder(folder.path() / "out", false), "new");
  ::umask(mask);
  struct stat status = {};
  ASSERT_EQ(::stat((folder.path() / "out").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0750U);
}

TEST(NewFolder, NeedsANameAndAFolderToLieIn) {
  const TemporaryFolder folder;
  EXPECT_ERROR_WITH(NewFolder("", false), "does not name a new folder");
  EXPECT_ERROR_WITH(NewFolder(folder.path() / "..", false), "does not name a new folder");
  EXPECT_ERROR_WITH(write_folder(NewFolder(folder.path() / "absent/out", false), ""), "cannot create a file in its folder");
  std::filesystem::create_directory_symlink(".", folder.path() / "link");
  EXPECT_ERROR_WITH(NewFolder(folder.path() / "link", true), "exists already and is no folder");
}

}  // namespace
}  // namespace gqmm::io
