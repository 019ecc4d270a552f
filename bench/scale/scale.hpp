// `gqmm bench scale` measures a layer whose experts are divided over ranks, which are processes on this machine.
#pragma once

namespace CLI {
class App;
}

namespace gqmm::bench {

/// Adds the subcommand "scale" to "bench". It takes none of the options of "bench". Its callback throws as that of "bench" does.
void add_scale_command(CLI::App& bench);

}  // namespace gqmm::bench
