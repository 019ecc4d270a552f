// `gqmm bench` of a program that was built without the benchmark (CMake's option GQMM_BUILD_BENCH).
#include "bench/bench.hpp"

#include <CLI/App.hpp>
#include <stdexcept>

namespace gqmm::bench {

void add_command(CLI::App& program, int& /*exit_status*/) {
  CLI::App* command = program.add_subcommand("bench", "Not in this program, which was built without the benchmark");
  // The answer is the same for all arguments, including --help.
  command->set_help_flag();
  command->prefix_command();
  command->callback([] {
    throw std::runtime_error(
        "[bench] this program was built without the benchmark; configure it with -D GQMM_BUILD_BENCH=ON and build it again");
  });
}

}  // namespace gqmm::bench
