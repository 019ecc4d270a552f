// The command `gqmm bench` as a program has it, for tests of what it refuses.
#pragma once

#include "bench.hpp"

#include <CLI/CLI.hpp>

#include <exception>
#include <string>

namespace gqmm::bench {

inline void run(const std::string& arguments) {
  int exit_status = 0;
  CLI::App program;
  add_command(program, exit_status);
  program.parse("bench " + arguments);
}

/// What the program says of these arguments.
inline std::string message_of(const std::string& arguments) {
  try {
    run(arguments);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace gqmm::bench
