// Small files of the system.
#pragma once

#include <optional>
#include <string>

namespace gqmm::threads {

/// The contents of a file such as those of /proc, or nothing if it cannot be opened. Not by std::ifstream: its locale has locks,
/// which a forked child may find taken.
[[nodiscard]] std::optional<std::string> read_file(const std::string& path);

}  // namespace gqmm::threads
