// The CPU quota of the control groups that a process belongs to.
#pragma once

#include <optional>
#include <string>

namespace gqmm::threads {

/// The tightest quota of this process's group and of the groups above it, in processors: 1.5 means 150 ms of processor time in
/// each 100 ms. Nothing if there is no quota. Reads version 1 and version 2 of control groups. `root` goes before /proc and /sys.
[[nodiscard]] std::optional<double> cgroup_quota(const std::string& root = {});

}  // namespace gqmm::threads
