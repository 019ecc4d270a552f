// Layers of experts on several ranks: which rows of x each rank needs, and where its results return to.
//
// Nothing here sends anything, so every engine fits: MPI, torch.distributed, a simulation in one process. Each rank has tokens
// and some of the experts. One layer takes two exchanges, and ExpertLayer (gqmm/expert_layer.hpp) does all of it:
//
//     plan = DispatchPlan(topk_ids, owners, rank, ranks, num_experts)
//     rows = pack_rows(plan, x)                       send plan.send_counts()[r] of them, and of plan.send_ids(), to rank r
//     ids = local_ids(received ids, owners, rank)     what came, from rank 0 on
//     slots = moe_ffn(received rows, ids, {}, …, {.missing = Missing::zero})
//     results = pack_results(slots, ids)              return_counts(ids, …)[r] of them return to rank r
//     y = combine(plan, unpack(plan, returned results), topk_weights)
//
// A message to rank r has send_counts[r] rows of x and as many times k ids; the one that returns has recv_counts[r] rows of the
// result's type. A token's row goes once to each rank that computes one of its slots. Slots are rounded before they return and
// are added up where the token is, in the order of the slots. So y has the bits of one rank, on any number of ranks.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/stream.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace gqmm {

/// The ranks that hold each expert. An object does not change; copies share memory.
class GQMM_API ExpertOwners {
 public:
  /// owners: (E,), any integer type: the rank that holds each expert. Throws std::invalid_argument for another shape or type, and
  /// for a rank that is negative or does not fit int.
  explicit ExpertOwners(const array& owners);
  /// owners: for each expert the ranks that hold a replica of it. Throws std::invalid_argument if an expert has none, if one of
  /// them is negative, or if a rank is named twice for an expert.
  explicit ExpertOwners(const std::vector<std::vector<int>>& owners);
  /// Neighbours together: expert e belongs to rank ⌊e · ranks / E⌋. Throws std::invalid_argument if num_experts is negative or
  /// does not fit int32, or if ranks is not positive.
  [[nodiscard]] static ExpertOwners contiguous(std::int64_t num_experts, int ranks);
  /// By turns: expert e belongs to rank e mod ranks. Throws as contiguous does.
  [[nodiscard]] static ExpertOwners round_robin(std::int64_t num_experts, int ranks);

  /// By measured load. counts: (E,), any integer type, how often each expert was chosen. The experts with the most load for each
  /// of their replicas get `extra_replicas` more, at most one on each rank. Then each replica, those with the most load first,
  /// goes to the rank with the least load that has room: ranks hold at most ⌈(E + extra_replicas) / ranks⌉ experts. A replica
  /// for which no rank has room is left out. Throws std::invalid_argument for another type or shape, for negative numbers, and if
  /// ranks is not positive.
  [[nodiscard]] static ExpertOwners by_load(const array& counts, int ranks, std::int64_t extra_replicas = 0);

  /// The number of experts E.
  [[nodiscard]] std::int64_t num_experts() const noexcept;
  /// The ranks that hold expert 0 ≤ `expert` < E.
  [[nodiscard]] std::span<const int> ranks_of(std::int64_t expert) const;
  /// The experts that `rank` holds, ascending. Weights of that rank have their matrices in this order.
  [[nodiscard]] std::vector<std::int64_t> experts_of(int rank) const;

 private:
  friend class DispatchPlan;
  struct Table;
  explicit ExpertOwners(Table table);
  std::shared_ptr<const Table> table_;
};

/// Where the rows of one rank's tokens go, and where the results return to. An object does not change; copies share memory.
///
/// If several ranks hold an expert, slot j of token t takes number (t + j) mod their number, in the order of ranks_of.
class GQMM_API DispatchPlan {
 public:
  /// topk_ids: (…, k), any integer type, the experts of this rank's tokens among all experts. A slot with a negative id is
  /// nobody's; it stays zero. rank and ranks: the number of this rank, and how many there are. Throws std::invalid_argument
  /// - for another type or a scalar, and for ids that are num_experts or more,
  /// - if num_experts is not the number of experts of owners, or does not fit int32,
  /// - if rank, or a rank of an expert, is outside 0 … ranks − 1.
  DispatchPlan(const array& topk_ids, const ExpertOwners& owners, int rank, int ranks, std::int64_t num_experts);

  [[nodiscard]] int rank() const noexcept { return rank_; }                         ///< the number of this rank
  [[nodiscard]] int ranks() const noexcept { return ranks_; }                       ///< how many ranks there are
  [[nodiscard]] std::int64_t num_experts() const noexcept { return num_experts_; }  ///< the number of experts on all ranks
  [[nodiscard]] const Shape& shape() const noexcept { return shape_; }              ///< the shape of topk_ids, (…, k)

  /// (ranks,), int64: how many rows each rank needs. That of this rank counts rows that need not be sent.
  [[nodiscard]] const array& send_counts() const noexcept { return send_counts_; }
  /// (ranks,), int64: how many results each rank returns, one for each slot that it computes.
  [[nodiscard]] const array& recv_counts() const noexcept { return recv_counts_; }
  /// (rows,), int64: the token of each row to send. Rows are sorted by rank, and by token within a rank.
  [[nodiscard]] const array& send_rows() const noexcept { return send_rows_; }
  /// (rows, k), int32: the experts of each row to send. Slots that another rank computes have −1.
  [[nodiscard]] const array& send_ids() const noexcept { return send_ids_; }
  /// (results,), int64: the slot of each result, token · k + slot. Results are sorted by rank, and by slot within a rank.
  [[nodiscard]] const array& slot_of() const noexcept { return slot_of_; }

 private:
  int rank_;
  int ranks_;
  std::int64_t num_experts_;
  Shape shape_;
  array send_counts_;
  array recv_counts_;
  array send_rows_;
  array send_ids_;
  array slot_of_;
};

/// Gathers the rows to send: row i is that of token plan.send_rows()[i]. x: (…, H) with the leading dimensions of topk_ids, any
/// type. Result: (rows, H), row-major. Throws std::invalid_argument if the shapes do not fit.
[[nodiscard]] GQMM_API array pack_rows(const DispatchPlan& plan, const array& x, const Stream& stream = {});

/// Converts ids that came with rows to positions among the experts that `rank` holds: those of moe_ffn's weights there. ids: any
/// integer type and shape. Result: int64 of that shape; −1 where the id is negative. Throws std::invalid_argument for ids that
/// `rank` does not hold, which are another rank's owner map.
[[nodiscard]] GQMM_API array local_ids(const array& ids, const ExpertOwners& owners, int rank);

/// Gathers the results to return: the rows of slots whose id is not negative, in their order. slots: (rows, k, H), the result of
/// moe_ffn without topk_weights, any type. ids: (rows, k), any integer type. Result: (results, H), row-major. Throws
/// std::invalid_argument if the shapes do not fit.
[[nodiscard]] GQMM_API array pack_results(const array& slots, const array& ids, const Stream& stream = {});

/// Counts the results for each source of rows: result r is the number of ids that are not negative among the rows of source r.
/// ids: (rows, k), any integer type. row_counts: (sources,), any integer type; their sum is the number of rows. Result: int64,
/// (sources,). Throws std::invalid_argument if the counts do not fit.
[[nodiscard]] GQMM_API array return_counts(const array& ids, const array& row_counts);

/// Puts results that returned into their slots. received: (results, H), from rank 0 on, any type. Result: (…, k, H); slots of
/// nobody are zero. Throws std::invalid_argument if there are fewer or more results than plan.recv_counts() has.
[[nodiscard]] GQMM_API array unpack(const DispatchPlan& plan, const array& received, const Stream& stream = {});

/// moe_combine for slots of the plan's shape: adds up each token's slots with its router's weights. slots: (…, k, H),
/// topk_weights: (…, k), each float16, bfloat16 or float32. Result: (…, H) of the type of slots. Throws std::invalid_argument if
/// the shapes are not the plan's.
[[nodiscard]] GQMM_API array combine(const DispatchPlan& plan, const array& slots, const array& topk_weights,
                                     const Stream& stream = {});

}  // namespace gqmm
