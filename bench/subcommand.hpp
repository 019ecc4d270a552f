// Benchmarks that are commands below `gqmm bench`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace gqmm::bench {

/// Adds a command to "bench" that takes none of the options which "bench" has so far.
inline CLI::App* add_separate_command(CLI::App& bench, const std::string& name, const std::string& description) {
  CLI::App* command = bench.add_subcommand(name, description);
  for (CLI::Option* option : bench.get_options([](const CLI::Option* each) { return each->get_name() != "--help"; })) {
    command->excludes(option);
  }
  return command;
}

}  // namespace gqmm::bench
