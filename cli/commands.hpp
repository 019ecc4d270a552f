// The commands of the gqmm program. Each function adds a command, which runs in its callback. The callback throws an exception if
// the input is wrong, and main turns the exception into exit status 2.
#pragma once

#include <CLI/App.hpp>

namespace gqmm::cli {

void add_info_command(CLI::App& program);
void add_inspect_command(CLI::App& program);
/// Sets `exit_status` to 1 if a check fails.
void add_check_command(CLI::App& program, int& exit_status);
void add_quantize_command(CLI::App& program);

}  // namespace gqmm::cli
