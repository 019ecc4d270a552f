// The engine of `gqmm bench`.
#pragma once

namespace CLI {
class App;
}

namespace gqmm::bench {

/// Adds the subcommand "bench" to the program. Its callback throws std::invalid_argument for settings that contradict each other
/// or the machine, and for figures that cannot be compared. It throws std::runtime_error for files that cannot be read or
/// written. It sets `exit_status` to 1 if a case is slower than the figures that --compare names.
void add_command(CLI::App& program, int& exit_status);

}  // namespace gqmm::bench
