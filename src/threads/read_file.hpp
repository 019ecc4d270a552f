// Small files of the system.
#pragma once

#include <optional>
#include <string>

namespace gqmm::threads {

/// The contents of a small file, such as those of /proc. Returns nothing if it cannot be opened. The function does not use
/// std::ifstream, whose locale has locks that may stay locked in a forked child.
[[nodiscard]] std::optional<std::string> read_file(const std::string& path);

}  // namespace gqmm::threads
