// ExpertLayer: one layer over ranks, in exchanges of four kinds.
//
//     start   each rank to all      LayerDigest
//     call    1. each rank to each  CallHeader: how many rows follow, or that this rank's arguments are wrong
//             2. rows of x with their ids to the ranks that compute their slots
//             3. slots back to the tokens, an exchange for each chunk of a rank's experts
//
// Shared experts are computed between the start and the end of exchange 2. The exchange of a chunk ends after all are computed.
//
// A rank with a mistake takes part in the exchange of the start or of headers all the same. So no rank waits in vain, and all
// ranks throw. An exception after that would leave the others waiting, so it ends the group.
#include "api/check.hpp"
#include "api/dispatch_rows.hpp"
#include "api/floats.hpp"
#include "api/layer_digest.hpp"
#include "api/lower.hpp"
#include "cpu/each_row.hpp"
#include "plan/expert_chunks.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/expert_layer.hpp>
#include <gqmm/infer.hpp>

#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view layer_op = "ExpertLayer";
constexpr int most_chunks = 64;

/// What a rank tells each other rank before it sends rows. After a mistake, only `failed` has a meaning.
struct CallHeader {
  std::int64_t rows = 0;   // how many follow
  std::int64_t slots = 0;  // of all its tokens
  std::int64_t k = 0;
  std::int64_t dtype = 0;  // of x
  std::int64_t failed = 0;
};

std::span<const std::int64_t> values_of(const array& int64s) {
  return {int64s.data<std::int64_t>(), static_cast<std::size_t>(int64s.size())};
}

// --- Exchanges --------------------------------------------------------------------------------------------------------

/// Runs what stands between two exchanges, or an exchange. Other ranks wait for this one, so an exception ends the group.
template <class Step>
auto or_abort(DispatchEngine& engine, const Step& step) {
  try {
    return step();
  } catch (const std::exception& error) {
    engine.abort(fmt::format("[{}] in the middle of a call: {}", layer_op, error.what()));
    throw;
  } catch (...) {
    engine.abort(fmt::format("[{}] in the middle of a call: an exception of an unknown type", layer_op));
    throw;
  }
}

/// Sends a record to each rank, and returns those that came.
template <class Record>
std::vector<Record> exchange_records(DispatchEngine& engine, const std::vector<Record>& records) {
  static_assert(std::is_trivially_copyable_v<Record>, "records go through messages as bytes");
  return or_abort(engine, [&] {
    const std::vector<std::int64_t> one_each(records.size(), 1);
    const Shape shape = {static_cast<std::int64_t>(records.size()), static_cast<std::int64_t>(sizeof(Record))};
    const array sent = array::borrow(records.data(), shape, Dtype::uint8);
    const array came = engine.all_to_all({&sent, 1}, one_each, one_each).front();
    std::vector<Record> result(records.size());
    std::memcpy(result.data(), came.bytes(), came.nbytes());
    return result;
  });
}

// --- Agreement --------------------------------------------------------------------------------------------------------

/// "rank 2" or "ranks 1, 3".
std::string text_of(const std::vector<int>& ranks) {
  return fmt::format("{} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "));
}

/// The ranks whose record is one of those that `matches` accepts.
template <class Record, class Matches>
std::vector<int> ranks_where(const std::vector<Record>& records, const Matches& matches) {
  std::vector<int> ranks;
  for (std::size_t rank = 0; rank < records.size(); ++rank) {
    if (matches(records[rank])) {
      ranks.push_back(static_cast<int>(rank));
    }
  }
  return ranks;
}

/// Throws on every rank if one of them has an error: its own on that rank.
void check_nobody_failed(const std::exception_ptr& own, const std::vector<int>& failed) {
  if (own) {
    std::rethrow_exception(own);
  }
  if (!failed.empty()) {
    fail(layer_op, "{} refused {}", text_of(failed),
         failed.size() == 1 ? "its arguments; its own error says why" : "their arguments; their own errors say why");
  }
}

/// Compares what the ranks' layers are made of.
void check_digests(const std::vector<LayerDigest>& digests, const std::exception_ptr& own) {
  check_nobody_failed(own, ranks_where(digests, [](const LayerDigest& of) { return of.version == 0; }));
  struct Part {
    std::uint64_t LayerDigest::* digest;
    std::string_view name;
  };
  constexpr Part parts[] = {{&LayerDigest::version, "version of gqmm"},
                            {&LayerDigest::owners, "owner map"},
                            {&LayerDigest::weights, "shape or format of weights"},
                            {&LayerDigest::options, "set of options"}};
  std::vector<std::string> differences;
  for (const Part& part : parts) {
    const std::vector<int> others =
        ranks_where(digests, [&](const LayerDigest& of) { return of.*part.digest != digests.front().*part.digest; });
    if (!others.empty()) {
      differences.push_back(
          fmt::format("{} {} another {} than rank 0", text_of(others), others.size() == 1 ? "has" : "have", part.name));
    }
  }
  if (!differences.empty()) {
    fail(layer_op, "{}; make the layer alike on all ranks", fmt::join(differences, "; "));
  }
}

/// Compares what the ranks are about to send.
void check_headers(const std::vector<CallHeader>& headers, const std::exception_ptr& own) {
  check_nobody_failed(own, ranks_where(headers, [](const CallHeader& of) { return of.failed != 0; }));
  const CallHeader& first = headers.front();
  for (std::size_t rank = 1; rank < headers.size(); ++rank) {
    const CallHeader& header = headers[rank];
    if (header.k != first.k) {
      fail(layer_op,
           "rank {} has topk_ids with k = {}, but rank 0 with k = {}; all ranks must choose as many experts for a token", rank,
           header.k, first.k);
    }
    if (header.dtype != first.dtype) {
      fail(layer_op, "rank {} has x of type {}, but rank 0 of type {}; convert x to one type on all ranks", rank,
           name_of(static_cast<Dtype>(header.dtype)), name_of(static_cast<Dtype>(first.dtype)));
    }
  }
}

// --- The arguments of a layer -----------------------------------------------------------------------------------------

/// The length of the rows of x. Throws std::invalid_argument for weights that moe_ffn would refuse.
std::int64_t inputs_of(std::string_view name, const ExpertWeights& weights) {
  const auto K_of = [](const auto& of_a_kind) {
    if constexpr (std::is_same_v<std::decay_t<decltype(of_a_kind)>, array>) {
      if (of_a_kind.rank() < 2) {
        fail(layer_op, "the dense array has shape {}; pass (E, outputs, inputs)", to_string(of_a_kind.shape()));
      }
      return of_a_kind.dim(-1);
    } else {
      return source_of(layer_op, of_a_kind, std::nullopt).extents.K;
    }
  };
  return naming(layer_op, name, [&] { return std::visit(K_of, weights); });
}

void check_options(const MoeFfnOptions& options) {
  const auto refuse = [](bool given, std::string_view name, std::string_view remedy) {
    if (given) {
      fail(layer_op, "options has {}; {}", name, remedy);
    }
  };
  refuse(options.router_weight_on_input, "router_weight_on_input", "multiply x by the weights before the call");
  refuse(options.missing != Missing::error, "missing", "leave it out, since slots with negative ids are zero here");
  refuse(options.local_experts.has_value(), "local_experts", "leave it out, since owners says which experts a rank holds");
  refuse(options.out.has_value(), "out", "leave it out, since each call makes its result");
  refuse(options.shared && options.shared->scale, "a scale of shared experts", "pass shared_scale to each call");
}

/// An array with a first dimension of 1 before its own, without a copy.
array with_leading_one(const array& a) {
  Shape shape = a.shape();
  Strides strides = a.strides();
  shape.insert(shape.begin(), 1);
  strides.insert(strides.begin(), 0);
  return array::borrow(a.bytes(), std::move(shape), a.dtype(), std::move(strides), a.owner());
}

std::optional<array> with_leading_one(const std::optional<array>& a) {
  return a ? std::optional(with_leading_one(*a)) : std::nullopt;
}

/// Weights of one expert, (1, outputs, inputs), from those without the first dimension, without a copy.
struct ToOneExpert {
  ExpertWeights operator()(const array& dense) const { return dense.rank() == 2 ? with_leading_one(dense) : dense; }
  ExpertWeights operator()(const QuantizedWeights& weights) const {
    if (weights.w.rank() != 2) {
      return weights;
    }
    QuantizedWeights one = weights;
    one.w = with_leading_one(weights.w);
    one.scales = with_leading_one(weights.scales);
    one.biases = with_leading_one(weights.biases);
    return one;
  }
  ExpertWeights operator()(const PackedWeights& weights) const {
    if (weights.shape().size() != 2) {
      return weights;
    }
    auto one = std::make_shared<PackedWeights::Data>(weights.data());
    one->shape.insert(one->shape.begin(), 1);
    return PackedWeights(std::move(one));
  }
};

/// Shared experts whose weights and biases have a first dimension of 1, as routed experts have one.
SharedExperts as_one_expert(const SharedExperts& shared) {
  SharedExperts one = shared;
  const auto convert = [](const ExpertWeights& weights) { return std::visit(ToOneExpert(), weights); };
  one.gate = convert(shared.gate);
  if (shared.up) {
    one.up = convert(*shared.up);
  }
  one.down = convert(shared.down);
  for (auto bias : {&SharedExperts::gate_bias, &SharedExperts::up_bias, &SharedExperts::down_bias}) {
    if (const std::optional<array>& given = shared.*bias; given && given->rank() == 1) {
      one.*bias = with_leading_one(*given);
    }
  }
  return one;
}

// --- Chunks -----------------------------------------------------------------------------------------------------------

void check_chunks(int chunks) {
  if (chunks < 0 || chunks > most_chunks) {
    fail(layer_op, "chunks = {} is outside 0 ... {}; 0 lets the library decide", chunks, most_chunks);
  }
}

/// An owner map in which each chunk stands for a rank: number c · ranks + r is chunk c of rank r. A plan of it chooses the same
/// replicas as one of `owners`, and sorts results by chunk, then by rank.
ExpertOwners owners_by_chunk(const ExpertOwners& owners, int ranks, int chunks) {
  const auto for_each_replica = [&](const auto& each) {
    for (std::int64_t expert = 0; expert < owners.num_experts(); ++expert) {
      for (const int rank : owners.ranks_of(expert)) {
        each(static_cast<std::size_t>(expert), rank);
      }
    }
  };
  std::vector<std::int64_t> held(static_cast<std::size_t>(ranks), 0);
  for_each_replica([&](std::size_t, int rank) { ++held[static_cast<std::size_t>(rank)]; });
  std::vector<std::int64_t> position(held.size(), 0);
  std::vector<std::vector<int>> by_chunk(static_cast<std::size_t>(owners.num_experts()));
  for_each_replica([&](std::size_t expert, int rank) {
    const auto r = static_cast<std::size_t>(rank);
    by_chunk[expert].push_back(chunk_of(position[r]++, held[r], chunks) * ranks + rank);
  });
  return ExpertOwners(by_chunk);
}

/// The results of a chunk's slots, (results, H). moe_ffn is given the rows of the chunk alone, so that it slices no others.
array results_of(const ChunkSlots& chunk, const array& rows, const ExpertWeights& gate, const std::optional<ExpertWeights>& up,
                 const ExpertWeights& down, MoeFfnOptions options) {
  options.shared.reset();
  options.missing = Missing::zero;
  const auto count = static_cast<std::int64_t>(chunk.rows.size());
  const array ids = array::borrow(chunk.experts, {count, chunk.columns});
  const array x = count == rows.dim(0) ? rows : gather_rows(rows, chunk.rows, options.stream);
  return pack_results(moe_ffn(x, ids, std::nullopt, gate, up, down, options), ids, options.stream);
}

// --- The last slot ----------------------------------------------------------------------------------------------------

/// Appends a slot to those of each token: (…, k, H) and (…, 1, H) give (…, k + 1, H). Both are row-major.
array append_slot(const array& slots, const array& last, const Stream& stream) {
  Shape shape = slots.shape();
  shape[shape.size() - 2] += 1;
  array all = array::empty(std::move(shape), slots.dtype());
  const std::int64_t tokens = all.size() == 0 ? 0 : last.size() / last.dim(-1);
  if (tokens == 0) {
    return all;
  }
  const std::size_t of_token = slots.nbytes() / static_cast<std::size_t>(tokens);
  const std::size_t of_last = last.nbytes() / static_cast<std::size_t>(tokens);
  std::byte* const to = all.mutable_bytes();
  cpu::for_each_row(tokens, all.size() / tokens, stream.threads, [&](std::int64_t token) {
    const auto t = static_cast<std::size_t>(token);
    std::byte* const at = to + t * (of_token + of_last);
    std::memcpy(at, slots.bytes() + t * of_token, of_token);
    std::memcpy(at + of_token, last.bytes() + t * of_last, of_last);
  });
  return all;
}

/// The factors of all slots of a token, (…, k + 1) float32, as moe_ffn converts them. Without a scale, the last one is 1.
array append_scale(const array& topk_weights, const std::optional<array>& scale, const Stream& stream) {
  const std::vector<float> routed = floats_of(topk_weights, stream);
  Shape shape = topk_weights.shape();
  const std::int64_t k = shape.back();
  shape.back() += 1;
  array all = array::empty(std::move(shape), Dtype::float32);
  const std::int64_t tokens = all.size() / (k + 1);
  const std::vector<float> last = scale ? floats_of(*scale, stream) : std::vector<float>(static_cast<std::size_t>(tokens), 1.0F);
  float* to = all.mutable_data<float>();
  for (std::int64_t token = 0; token < tokens; ++token) {
    to = std::copy_n(routed.begin() + token * k, k, to);
    *to++ = last[static_cast<std::size_t>(token)];
  }
  return all;
}

}  // namespace

DispatchExchange::~DispatchExchange() = default;
DispatchEngine::~DispatchEngine() = default;

bool DispatchEngine::overlaps() const noexcept { return false; }

std::unique_ptr<DispatchExchange> DispatchEngine::start(std::span<const array> arrays, std::span<const std::int64_t> send_counts,
                                                        std::span<const std::int64_t> recv_counts) {
  class Ended final : public DispatchExchange {
   public:
    explicit Ended(std::vector<array> received) : received_(std::move(received)) {}
    void progress() override {}
    std::vector<array> wait() override { return std::move(received_); }

   private:
    std::vector<array> received_;
  };
  return std::make_unique<Ended>(all_to_all(arrays, send_counts, recv_counts));
}

ExpertLayer::ExpertLayer(std::shared_ptr<DispatchEngine> engine, ExpertWeights gate, std::optional<ExpertWeights> up,
                         ExpertWeights down, ExpertOwners owners, MoeFfnOptions options, int chunks)
    : engine_(std::move(engine)),
      gate_(std::move(gate)),
      up_(std::move(up)),
      down_(std::move(down)),
      owners_(std::move(owners)),
      options_(std::move(options)),
      chunks_(chunks) {
  if (!engine_) {
    fail(layer_op, "engine is null; pass one, such as gqmm::mpi::Engine");
  }
  if (chunks_ == 0 && !engine_->overlaps()) {
    chunks_ = 1;
  }
  LayerDigest digest;
  std::exception_ptr error;
  try {
    check_chunks(chunks_);
    check_options(options_);
    const std::int64_t H = inputs_of("gate", gate_);
    // Neither has a token: they check weights and owners.
    const array no_ids = array::empty({0, 1}, Dtype::int64);
    check_call(array::empty({0, H}, Dtype::float32), no_ids, array::empty({0, 1}, Dtype::float32), {});
    const DispatchPlan no_tokens(no_ids, owners_, engine_->rank(), engine_->ranks(), owners_.num_experts());
    const auto held = static_cast<std::int64_t>(owners_.experts_of(engine_->rank()).size());
    if (const std::int64_t given = count_experts(gate_); given != held) {
      fail(layer_op, "gate has {} experts but rank {} holds {}; pass those of owners.experts_of({}), in their order", given,
           engine_->rank(), held, engine_->rank());
    }
    if (options_.shared) {
      options_.shared = as_one_expert(*options_.shared);
    }
    digest = digest_of(owners_, gate_, up_, down_, options_, chunks_);
  } catch (...) {
    error = std::current_exception();
  }
  check_digests(exchange_records(*engine_, std::vector(static_cast<std::size_t>(engine_->ranks()), digest)), error);
}

void ExpertLayer::check_call(const array& x, const array& topk_ids, const array& topk_weights,
                             const std::optional<array>& shared_scale) const {
  MoeFfnOptions options = options_;
  if (options.shared) {
    options.shared->scale = shared_scale;
  } else if (shared_scale) {
    fail(layer_op, "shared_scale is given but the layer has no shared experts; leave it out");
  }
  std::ignore = infer_moe_ffn(x, topk_ids, topk_weights, gate_, up_, down_, options);
}

array ExpertLayer::operator()(const array& x, const array& topk_ids, const array& topk_weights,
                              const std::optional<array>& shared_scale) const {
  const threads::NodeBinding binding(options_.stream);
  std::optional<DispatchPlan> plan;
  array rows;
  std::vector<CallHeader> headers(static_cast<std::size_t>(engine_->ranks()), {.failed = 1});
  std::exception_ptr error;
  try {
    check_call(x, topk_ids, topk_weights, shared_scale);
    plan.emplace(topk_ids, owners_, engine_->rank(), engine_->ranks(), owners_.num_experts());
    rows = pack_rows(*plan, x, options_.stream);
    for (std::size_t rank = 0; rank < headers.size(); ++rank) {
      headers[rank] = {.rows = values_of(plan->send_counts())[rank],
                       .slots = topk_ids.size(),
                       .k = topk_ids.dim(-1),
                       .dtype = static_cast<std::int64_t>(x.dtype())};
    }
  } catch (...) {
    error = std::current_exception();
  }
  headers = exchange_records(*engine_, headers);
  check_headers(headers, error);

  // Exchanges under way outlive the step, whose exception ends the group: until then other ranks need their memory.
  std::vector<std::unique_ptr<DispatchExchange>> exchanges;
  std::optional<array> shared;
  std::vector<array> returned;
  or_abort(*engine_, [&] {
    std::vector<std::int64_t> row_counts;
    DividedCall call = {
        .ranks = engine_->ranks(), .experts = owners_.num_experts(), .slots = 0, .slot_bytes = x.dim(-1) * x.itemsize()};
    for (const CallHeader& header : headers) {
      row_counts.push_back(header.rows);
      call.slots += header.slots;
    }
    const int chunks = chunks_ == 0 ? worthwhile_chunks(call) : chunks_;
    exchanges.reserve(static_cast<std::size_t>(chunks));

    const array sent[] = {plan->send_ids(), rows};
    exchanges.push_back(engine_->start(sent, values_of(plan->send_counts()), row_counts));
    if (options_.shared) {
      shared = shared_slot(x);
    }
    if (chunks > 1) {
      plan.emplace(topk_ids, owners_by_chunk(owners_, call.ranks, chunks), 0, chunks * call.ranks, call.experts);
    }
    const std::vector<array> came = exchanges.front()->wait();
    exchanges.clear();
    start_returns(came[0], came[1], row_counts, values_of(plan->recv_counts()), exchanges);
    for (std::unique_ptr<DispatchExchange>& exchange : exchanges) {
      returned.push_back(exchange->wait().front());
      exchange.reset();  // the slots below take its memory
    }
  });

  const array slots = unpack_parts(*plan, returned, options_.stream);
  if (!options_.shared) {
    return combine(*plan, slots, topk_weights, options_.stream);
  }
  return moe_combine(append_slot(slots, *shared, options_.stream), append_scale(topk_weights, shared_scale, options_.stream),
                     {.stream = options_.stream});
}

/// Computes the slots of rows that came, chunk by chunk, and starts an exchange of each chunk's results. `recv_counts` has, for
/// each chunk, the results that return from each rank.
void ExpertLayer::start_returns(const array& ids, const array& rows, std::span<const std::int64_t> row_counts,
                                std::span<const std::int64_t> recv_counts,
                                std::vector<std::unique_ptr<DispatchExchange>>& exchanges) const {
  const std::size_t ranks = row_counts.size();
  const array local = local_ids(ids, owners_, engine_->rank());
  const std::vector<ChunkSlots> chunks = slots_of_chunks(values_of(local), ids.dim(-1), row_counts, count_experts(gate_),
                                                         static_cast<int>(recv_counts.size() / ranks));
  for (const ChunkSlots& chunk : chunks) {
    const array results = results_of(chunk, rows, gate_, up_, down_, options_);
    exchanges.push_back(engine_->start({&results, 1}, chunk.results, recv_counts.first(ranks)));
    recv_counts = recv_counts.subspan(ranks);
    for (const std::unique_ptr<DispatchExchange>& exchange : exchanges) {
      exchange->progress();
    }
  }
}

/// The shared experts' results, (…, 1, H): the slot of a layer that has no other expert.
array ExpertLayer::shared_slot(const array& x) const {
  static constexpr std::int64_t first_expert = 0;
  const SharedExperts& shared = *options_.shared;
  Shape shape = x.shape();
  shape.back() = 1;
  const array ids = array::borrow(&first_expert, shape, Dtype::int64, Strides(shape.size(), 0));
  return moe_ffn(x, ids, std::nullopt, shared.gate, shared.up, shared.down,
                 {.activation = shared.activation.value_or(options_.activation),
                  .gate_up_order = options_.gate_up_order,
                  .gate_bias = shared.gate_bias,
                  .up_bias = shared.up_bias,
                  .down_bias = shared.down_bias,
                  .precision = options_.precision,
                  .stream = options_.stream});
}

}  // namespace gqmm
