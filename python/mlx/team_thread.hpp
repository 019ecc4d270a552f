// Threads of products that MLX evaluates.
//
// MLX evaluates on one thread per stream, and OpenMP keeps a team of workers for every thread that has ever asked for one: with
// many streams they would outnumber the cores. Products that are worth several threads therefore run on one thread of their own,
// one product after the other, and its team is the only one.
#pragma once

#include <functional>

namespace gqmm::mlx {

/// Runs `product(threads)` with threads = 1 here if its multiply-adds are worth no second thread, else with threads = 0 (as many
/// as the machine grants) on the thread that has the team. Returns when it has finished; rethrows what it threw.
void run_product(double multiply_adds, const std::function<void(int threads)>& product);

}  // namespace gqmm::mlx
