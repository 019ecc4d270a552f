// The time that MLX's streams spend in gqmm's functions.
#pragma once

namespace gqmm::mlx {

/// Returns the seconds that streams have spent on computing outputs so far. Benchmarks take MLX's and Python's share from it.
double seconds_of_tasks();

}  // namespace gqmm::mlx
