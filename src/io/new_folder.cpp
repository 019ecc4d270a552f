#include "io/new_folder.hpp"

#include "io/error.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <set>
#include <system_error>
#include <utility>

namespace gqmm::io {
namespace {

namespace fs = std::filesystem;

constexpr ::mode_t new_folder_mode = 0777;  // mkdir() removes the bits of the process's umask

/// The names of the files that gqmm wrote, according to the index of the folder. Empty if the index does not say.
std::set<std::string> written_files(const fs::path& folder) {
  std::set<std::string> names;
  const fs::path index = folder / index_name;
  std::error_code error;
  if (!fs::is_regular_file(index, error)) {
    return names;
  }
  const nlohmann::json json = parse_json(MappedFile::open(index)->text(), index.native());
  const nlohmann::json::json_pointer where("/metadata/" + std::string(written_files_key));
  if (json.is_object() && json.contains(where) && json.at(where).is_array()) {
    for (const nlohmann::json& name : json.at(where)) {
      if (name.is_string()) {
        names.insert(name.get<std::string>());
      }
    }
  }
  return names;
}

/// What a folder holds: the paths of its files and of its folders, relative to it. An outer folder comes before those in it.
struct FolderContents {
  std::set<std::string> files;
  std::vector<std::string> folders;
};

FolderContents contents_of(const fs::path& folder) {
  FolderContents contents;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    std::string name = entry.path().lexically_relative(folder).native();
    if (entry.is_directory() && !entry.is_symlink()) {
      contents.folders.push_back(std::move(name));
    } else {
      contents.files.insert(std::move(name));
    }
  }
  return contents;
}

/// Returns the files of a folder. Throws FileError if the folder holds anything that gqmm did not write.
std::set<std::string> check_is_ours(const fs::path& folder) {
  FolderContents contents = contents_of(folder);
  const std::set<std::string> ours = written_files(folder);
  for (const std::string& name : contents.files) {
    if (!ours.contains(name)) {
      throw FileError(folder.native(),
                      fmt::format("holds {}, which gqmm quantize did not write, so that --force does not replace "
                                  "it; move the folder away or choose another name",
                                  in_quotes(name)));
    }
  }
  for (const std::string& name : contents.folders) {
    const auto in_it = [&](const std::string& file) { return file.starts_with(name + "/"); };
    if (std::none_of(ours.begin(), ours.end(), in_it)) {
      throw FileError(folder.native(), fmt::format("holds the folder {}, which gqmm quantize did not write, so that --force does "
                                                   "not replace it; move it away or choose another name",
                                                   in_quotes(name)));
    }
  }
  return std::move(contents.files);
}

/// Removes the named files, then the folders that held them. A folder stays if another program has put something into it
/// meanwhile. Returns true if `folder` itself was removed.
bool remove_files(const fs::path& folder, const std::set<std::string>& names) {
  std::error_code ignored;
  std::set<fs::path> folders;
  for (const std::string& name : names) {
    ::unlink((folder / name).c_str());
    if (const fs::path parent = fs::path(name).parent_path(); !parent.empty()) {
      folders.insert(folder / parent);
    }
  }
  for (const fs::path& inner : folders) {
    ::rmdir(inner.c_str());
  }
  return ::rmdir(folder.c_str()) == 0;
}

}  // namespace

NewFolder::NewFolder(fs::path path, bool replace) : path_(std::move(path)), replace_(replace) {
  if (!path_.has_filename()) {
    path_ = path_.parent_path();  // "out/" becomes "out"
  }
  if (path_.empty() || path_.filename() == "." || path_.filename() == "..") {
    throw FileError(path_.native(), "does not name a new folder");
  }
  parent_ = folder_of(path_);
  static_cast<void>(check_place());
}

std::optional<std::set<std::string>> NewFolder::check_place() const {
  struct stat status = {};
  if (::lstat(path_.c_str(), &status) != 0) {
    if (errno != ENOENT) {
      throw FileError(path_.native(), system_error_text("cannot be written", errno));
    }
    return std::nullopt;
  }
  if (!S_ISDIR(status.st_mode)) {
    throw FileError(path_.native(),
                    "exists already and is no folder; a model is written as a folder: choose another name, or one "
                    "that ends in .safetensors for a single file");
  }
  if (!replace_) {
    throw FileError(path_.native(), "exists already; --force replaces a folder that gqmm quantize wrote");
  }
  return check_is_ours(path_);
}

PendingFile NewFolder::new_file(const std::string& name) const { return {parent_, (path_ / name).native()}; }

void NewFolder::commit(const std::vector<std::string>& names, const std::function<void(const fs::path&)>& publish) const {
  const SignalsHeldBack held;
  const fs::path staging = parent_ / random_name(".gqmm-");
  if (::mkdir(staging.c_str(), new_folder_mode) != 0) {
    throw FileError(path_.native(), system_error_text("cannot create a folder beside it", errno));
  }
  try {
    for (const std::string& name : names) {
      fs::create_directories((staging / name).parent_path());
    }
    publish(staging);
    flush_folder(staging);
    put_in_place(staging);
  } catch (...) {
    remove_files(staging, {names.begin(), names.end()});
    throw;
  }
  flush_folder(parent_);
}

void NewFolder::put_in_place(const fs::path& staging) const {
  const auto rename = [](const fs::path& from, const fs::path& to, unsigned flags) {
    return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) == 0 ? 0 : errno;
  };
  const auto unsupported = [](int error) { return error == EINVAL || error == ENOSYS; };
  const std::optional<std::set<std::string>> old_files = check_place();
  if (!old_files) {
    int error = rename(staging, path_, RENAME_NOREPLACE);
    if (unsupported(error)) {  // a plain rename replaces at most an empty folder
      error = rename(staging, path_, 0);
    }
    if (error != 0) {
      throw FileError(path_.native(), system_error_text("cannot put the finished folder in its place", error));
    }
    return;
  }
  fs::path old = staging;
  int error = rename(staging, path_, RENAME_EXCHANGE);
  if (unsupported(error)) {
    old = parent_ / random_name(".gqmm-");
    error = rename(path_, old, 0);
    if (error == 0) {
      error = rename(staging, path_, 0);
      if (error != 0) {
        static_cast<void>(rename(old, path_, 0));
      }
    }
  }
  if (error != 0) {
    throw FileError(path_.native(), system_error_text("cannot put the finished folder in its place", error));
  }
  if (!remove_files(old, *old_files)) {
    throw FileError(path_.native(),
                    fmt::format("is written, but not all of the old folder could be removed; see {}", old.native()));
  }
}

}  // namespace gqmm::io
