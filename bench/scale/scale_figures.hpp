// Measures a layer on several numbers of ranks: the groups take turns, and the machine's limits are measured around each turn.
#pragma once

#include "cases/case.hpp"
#include "mlx_lm/turns.hpp"

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace gqmm::bench {

struct ScalePlan {
  Case layer;                        ///< a whole layer; its tokens and threads are those of each case
  std::vector<std::int64_t> tokens;  ///< of all ranks together
  std::vector<int> ranks;
  std::string python;  ///< an interpreter with mpi4py and gqmm
  int repetitions = 9;
  double seconds = 0.3;        ///< of a turn
  std::size_t pool_bytes = 0;  ///< that the copies of the layer have, and the bytes that the DRAM probe reads
  int threads = 1;             ///< of all ranks together
};

/// A turn of some ranks.
struct RankTurn {
  Turn whole;                           ///< of a call, until the last rank has its result
  double exchange_seconds = 0;          ///< of a call, on average over the ranks
  double bytes_per_token = 0;           ///< that ranks send to others
  std::optional<double> alone_seconds;  ///< of plain moe_ffn; only one rank measures it
};

/// The threads of each rank, if the ranks share so many.
int threads_of_rank(int threads, int ranks);

/// Returns the figures of the turns of some ranks: those of a call, the part of it in exchanges, the bytes per token, and
/// "alone".
nlohmann::ordered_json figures_of(const Case& layer, int ranks, int threads, const std::vector<RankTurn>& turns);

/// Measures everything, and returns the figures as the report takes them.
nlohmann::ordered_json measure_scale(const ScalePlan& plan, const ModelProgress& progress);

}  // namespace gqmm::bench
