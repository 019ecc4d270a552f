// Writes a folder that is whole or absent.
#pragma once

#include "io/pending_file.hpp"

#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace gqmm::io {

/// The list of files in the index by which gqmm knows a folder that it wrote, and may replace on request.
inline constexpr const char* written_files_key = "gqmm_files";
inline constexpr const char* index_name = "model.safetensors.index.json";

/// The files are pending until commit (io/pending_file.hpp). Then a folder of another name takes them and is renamed.
class NewFolder {
 public:
  /// Throws FileError if `path` exists. With `replace` a folder that gqmm wrote may be there, with nothing in it that gqmm did
  /// not write.
  NewFolder(std::filesystem::path path, bool replace);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  /// A file that `name` will be, with '/' for a folder in between.
  [[nodiscard]] PendingFile new_file(const std::string& name) const;

  /// Calls `publish` with the folder in which it must give every file of `names` its name, then puts the folder in place.
  void commit(const std::vector<std::string>& names, const std::function<void(const std::filesystem::path&)>& publish) const;

 private:
  /// The files in the folder that is to be replaced; nullopt if there is none. Throws FileError if it may not be replaced.
  [[nodiscard]] std::optional<std::set<std::string>> check_place() const;
  void put_in_place(const std::filesystem::path& staging) const;

  std::filesystem::path path_;
  std::filesystem::path parent_;
  bool replace_;
};

}  // namespace gqmm::io
