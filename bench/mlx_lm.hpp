// `gqmm bench mlx-lm`: a layer of a language model through mlx-lm, MLX's own products against gqmm.mlx's.
#pragma once

namespace CLI {
class App;
}

namespace gqmm::bench {

/// Adds the subcommand "mlx-lm" to "bench", none of whose options go with it. Its callback throws as that of "bench" does.
CLI::App* add_mlx_lm_command(CLI::App& bench);

}  // namespace gqmm::bench
