// Layers of experts that are divided over ranks: ExpertLayer does what gqmm/dispatch.hpp describes, over any engine.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/dispatch.hpp>
#include <gqmm/export.hpp>
#include <gqmm/moe.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace gqmm {

/// An exchange of rows that DispatchEngine::start has begun. It ends before its engine does.
class GQMM_API DispatchExchange {
 public:
  DispatchExchange() = default;
  DispatchExchange(const DispatchExchange&) = delete;
  DispatchExchange& operator=(const DispatchExchange&) = delete;
  virtual ~DispatchExchange();

  /// Lets messages move on, and returns at once. Callers call it now and then while they compute.
  virtual void progress() = 0;
  /// Waits for the end, and returns what all_to_all returns. It is called once.
  [[nodiscard]] virtual std::vector<array> wait() = 0;
};

/// What carries messages between ranks. gqmm/mpi.hpp has an engine over MPI; a program may derive one of its own. Only one thread
/// at a time calls an engine, and all ranks call it in the same order.
class GQMM_API DispatchEngine {
 public:
  DispatchEngine() = default;
  DispatchEngine(const DispatchEngine&) = delete;
  DispatchEngine& operator=(const DispatchEngine&) = delete;
  virtual ~DispatchEngine();

  [[nodiscard]] virtual int rank() const noexcept = 0;   ///< the number of this rank, 0 … ranks() − 1
  [[nodiscard]] virtual int ranks() const noexcept = 0;  ///< how many ranks there are

  /// Exchanges rows between all ranks. A row is all of an array but its first dimension.
  ///
  /// arrays: row-major, with at least one dimension, and each with as many rows as send_counts adds up to; rows are sorted by the
  /// rank that they go to. send_counts: for each rank, how many rows of each array go there. recv_counts: for each rank, how many
  /// rows come from there. Types and shapes of rows are the same on all ranks.
  ///
  /// Result: for each array, one with the rows that came, from rank 0 on. Rows that a rank sends to itself are copied. An engine
  /// that waits in vain for other ranks ends the group; it never returns a part.
  [[nodiscard]] virtual std::vector<array> all_to_all(std::span<const array> arrays, std::span<const std::int64_t> send_counts,
                                                      std::span<const std::int64_t> recv_counts) = 0;

  /// Whether `start` returns before all rows are exchanged, so that a rank may compute meanwhile.
  [[nodiscard]] virtual bool overlaps() const noexcept;

  /// Starts an exchange, with the arguments of all_to_all. Several may be under way; all ranks start them in the same order. The
  /// exchange shares the memory of arrays, and nobody changes it before `wait` has returned. Counts are read by `start` alone.
  ///
  /// If it is not overridden, it calls all_to_all, and the exchange has ended when it returns.
  [[nodiscard]] virtual std::unique_ptr<DispatchExchange> start(std::span<const array> arrays,
                                                                std::span<const std::int64_t> send_counts,
                                                                std::span<const std::int64_t> recv_counts);

  /// Ends all ranks. `why` says what this rank has met between two exchanges, so that the others would wait for it in vain. An
  /// engine that cannot end the process makes all ranks' next exchanges fail.
  virtual void abort(std::string_view why) = 0;
};

/// A layer of experts of which each rank holds some. Ranks have tokens of their own, and the result has the bits of one rank.
///
/// A rank may cut its experts into chunks: neighbours in the order of experts_of, as many in each chunk, or one more. The results
/// of a chunk return to their tokens while the next one is computed. Shared experts are computed while rows travel. Both gain
/// only with an engine that overlaps.
///
/// All ranks make the layer, and all call it, in the same order; a rank without tokens passes arrays with 0 of them. Errors in
/// arguments are found before rows are sent, and then every rank throws. The rank with the error throws that; the others throw
/// std::invalid_argument, which names it. Any other exception between two exchanges, such as std::bad_alloc or Interrupted, ends
/// the group (DispatchEngine::abort). Memory that weights borrow must outlive the layer.
class GQMM_API ExpertLayer {
 public:
  /// gate, up and down are those of moe_ffn, with this rank's experts alone, in the order of owners.experts_of(engine->rank()).
  /// A rank without experts passes weights with E = 0. owners: which ranks hold each expert; the same on all ranks. options: as
  /// in moe_ffn; biases are those of this rank's experts. Shared experts are whole on all ranks, and each rank computes those of
  /// its own tokens. Their scale belongs to a call.
  ///
  /// chunks: 1 … 64, into how many chunks each rank cuts its experts; a chunk may be empty. With 0 the library decides for each
  /// call: 1 if the engine does not overlap; else the largest of 1, 2, 4 and 8 with which a message of results has 32 KiB or more
  /// in the mean, and which is at most E / ranks.
  ///
  /// Ranks compare the library's version, the owner map, the options with the chunks, and the shapes and formats of the weights.
  /// Throws std::invalid_argument on every rank
  /// - if these differ; the message names the ranks,
  /// - if weights, biases or owners of a rank do not fit each other or moe_ffn,
  /// - if options has router_weight_on_input, missing, local_experts, out, or a scale of shared experts,
  /// - if chunks is outside 0 … 64.
  ExpertLayer(std::shared_ptr<DispatchEngine> engine, ExpertWeights gate, std::optional<ExpertWeights> up, ExpertWeights down,
              ExpertOwners owners, MoeFfnOptions options = {}, int chunks = 0);

  /// Computes the layer for this rank's tokens. x: (…, H), float16, bfloat16 or float32. topk_ids: (…, k), any integer type, the
  /// experts of each token among all experts. A slot with a negative id is nobody's; it is zero. topk_weights: (…, k), float16,
  /// bfloat16 or float32. shared_scale: the factor of each token's shared result, as SharedExperts::scale. k and the type of x
  /// are the same on all ranks; the number of tokens is not.
  ///
  /// Result: (…, H) of the type of x, with the bits of moe_ffn over all experts. Throws std::invalid_argument on every rank if an
  /// argument of a rank is wrong or if k or the type of x differ.
  [[nodiscard]] array operator()(const array& x, const array& topk_ids, const array& topk_weights,
                                 const std::optional<array>& shared_scale = {}) const;

 private:
  void check_call(const array& x, const array& topk_ids, const array& topk_weights,
                  const std::optional<array>& shared_scale) const;
  void start_returns(const array& ids, const array& rows, std::span<const std::int64_t> row_counts,
                     std::span<const std::int64_t> recv_counts, std::vector<std::unique_ptr<DispatchExchange>>& exchanges) const;
  [[nodiscard]] array shared_slot(const array& x) const;

  std::shared_ptr<DispatchEngine> engine_;
  ExpertWeights gate_;
  std::optional<ExpertWeights> up_;
  ExpertWeights down_;
  ExpertOwners owners_;
  MoeFfnOptions options_;  // with shared experts in three dimensions, so that they can be routed, too
  int chunks_;             // 0 if each call decides
};

}  // namespace gqmm
