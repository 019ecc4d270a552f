// Writes a folder that is either complete or absent.
#pragma once

#include "io/pending_file.hpp"

#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace gqmm::io {

/// The key of the index under which gqmm lists the files that it wrote. By this list gqmm recognises its own folders, which it
/// may replace on request.
inline constexpr const char* written_files_key = "gqmm_files";
inline constexpr const char* index_name = "model.safetensors.index.json";

/// A folder that is being written. Its files are pending until commit (io/pending_file.hpp). Then they are put into a folder of a
/// temporary name, and that folder is renamed.
class NewFolder {
 public:
  /// Throws FileError if `path` exists. If `replace` is true, `path` may be a folder in which gqmm wrote everything.
  NewFolder(std::filesystem::path path, bool replace);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  /// Creates the pending file that becomes `name`. The name may be a path such as "folder/file".
  [[nodiscard]] PendingFile new_file(const std::string& name) const;

  /// Calls `publish` with the path of a folder. `publish` must give every file of `names` its name in that folder. Then commit
  /// puts the folder in its place.
  void commit(const std::vector<std::string>& names, const std::function<void(const std::filesystem::path&)>& publish) const;

 private:
  /// The files in the folder that is to be replaced, or nullopt if there is no such folder. Throws FileError if it may not be
  /// replaced.
  [[nodiscard]] std::optional<std::set<std::string>> check_place() const;
  void put_in_place(const std::filesystem::path& staging) const;

  std::filesystem::path path_;
  std::filesystem::path parent_;
  bool replace_;
};

}  // namespace gqmm::io
