// `gqmm bench mlx-lm` measures a layer of a language model through mlx-lm, with MLX's own products and with gqmm.mlx's.
#pragma once

namespace CLI {
class App;
}

namespace gqmm::bench {

/// Adds the subcommand "mlx-lm" to "bench". It takes none of the options of "bench". Its callback throws as that of "bench" does.
void add_mlx_lm_command(CLI::App& bench);

}  // namespace gqmm::bench
