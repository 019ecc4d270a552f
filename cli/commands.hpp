// The commands of the gqmm program. Each adds itself to the program and runs from its callback; what is wrong with the input is
// thrown and becomes exit status 2 in main.
#pragma once

#include <CLI/App.hpp>

namespace gqmm::cli {

void add_info_command(CLI::App& program);
void add_inspect_command(CLI::App& program);
/// Sets `exit_status` to 1 if a check fails.
void add_check_command(CLI::App& program, int& exit_status);
void add_quantize_command(CLI::App& program);

}  // namespace gqmm::cli
