// The CPU quota of the control groups that a process belongs to.
#pragma once

#include <optional>
#include <string>

namespace gqmm::threads {

/// The tightest quota of this process's group and of the groups above it, in processors. 1.5 means 150 ms of processor time in
/// each 100 ms. Returns nothing if there is no quota. The function reads version 1 and version 2 of control groups. It puts
/// `root` before /proc and /sys, so that tests can give it other files.
[[nodiscard]] std::optional<double> cgroup_quota(const std::string& root = {});

}  // namespace gqmm::threads
