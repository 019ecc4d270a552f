// The gqmm program, which offers the functions of the library in a shell.
//
// The exit status is 0 for success. It is 1 if a check failed or a case of the benchmark became slower. It is 2 for wrong usage
// or input and for output that could not be written. It is also 2 if no case of two lists of figures could be compared.
#include "bench/bench.hpp"
#include "cli/commands.hpp"

#include <gqmm/system.hpp>

#include <fcntl.h>
#include <unistd.h>
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>
#include <string>

namespace {

constexpr int usage_error = 2;

/// Opens the standard streams that the caller has closed. Otherwise the next file that is opened would get the number of such a
/// stream, and messages would be written into that file. The streams are opened for reading, so that a write fails and is
/// noticed.
void occupy_standard_streams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) < 0) {
      static_cast<void>(::open("/dev/null", O_RDONLY));
    }
  }
}

int fail(const std::string& message) {
  std::fprintf(stderr, "gqmm: %s\n", message.c_str());
  return usage_error;
}

int run(int argc, char** argv) {
  CLI::App program("gather_qmm for quantized mixture-of-experts models", "gqmm");
  program.set_version_flag("--version", std::string(gqmm::version()));
  program.require_subcommand(1);
  program.footer(R"(Examples:
  gqmm info                                   show what this machine offers and what the library uses
  gqmm inspect path/to/model                  list the quantized tensors of a checkpoint
  gqmm check path/to/model                    compare products of its expert tensors with the reference
  gqmm quantize in.safetensors out.safetensors --mode mxfp4
  gqmm bench                                  measure the speed as a fraction of what this machine can do

`gqmm COMMAND --help` describes a command.)");

  int exit_status = 0;
  gqmm::cli::add_info_command(program);
  gqmm::cli::add_inspect_command(program);
  gqmm::cli::add_check_command(program, exit_status);
  gqmm::cli::add_quantize_command(program);
  gqmm::bench::add_command(program, exit_status);
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // --help, --version
      return program.exit(error);
    }
    const auto commands = program.get_subcommands();
    if (const auto unknown = program.remaining(); commands.empty() && !unknown.empty()) {
      return fail("unknown command or option \"" + unknown.front() + "\"; see `gqmm --help`");
    }
    return fail(std::string(error.what()) + "; see `gqmm " + (commands.empty() ? "" : commands.front()->get_name() + " ") +
                "--help`");
  }
  return exit_status;
}

}  // namespace

int main(int argc, char** argv) {
  occupy_standard_streams();
  int status = 0;
  try {
    status = run(argc, argv);
  } catch (const std::bad_alloc&) {
    status = fail("out of memory");
  } catch (const std::exception& error) {
    status = fail(error.what());
  }
  std::cout.flush();
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0 || !std::cout) {
    return fail("cannot write to the standard output");
  }
  return status;
}
