// The processes of `gqmm bench scale`: for each number of ranks a group that mpiexec starts.
#pragma once

#include "cases/case.hpp"
#include "python_process.hpp"

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace gqmm::bench {

/// What is needed to start ranks, as an interpreter has it.
struct RankTools {
  nlohmann::ordered_json versions;  ///< of Python, gqmm, mpi4py, NumPy and the MPI library
  std::string mpiexec;
};

/// Asks the interpreter. Throws std::runtime_error with the remedy if mpi4py, an MPI library, mpiexec or gqmm is missing.
RankTools find_rank_tools(const std::string& python);

/// Some ranks that wait for requests without taking processor time.
class RankGroup {
 public:
  /// Starts the ranks, each with so many threads, and makes the layer's weights. The copies of the layer on all ranks together
  /// have at least `pool_bytes`. Throws std::runtime_error if the ranks do not start.
  RankGroup(const std::string& python, const RankTools& tools, int ranks, int threads, const Case& layer, std::size_t pool_bytes);

  [[nodiscard]] int ranks() const { return ranks_; }
  [[nodiscard]] int threads() const { return threads_; }  ///< of each rank
  /// Makes the tokens of the next turns, which are divided over the ranks.
  void set_up(std::int64_t tokens);
  /// Measures calls for so many seconds. Returns {"seconds", "exchange_seconds", "bytes_per_token", "calls"}, and "alone_seconds"
  /// of plain moe_ffn if there is one rank.
  nlohmann::ordered_json turn(double seconds);

 private:
  int ranks_;
  int threads_;
  PythonProcess process_;
};

}  // namespace gqmm::bench
