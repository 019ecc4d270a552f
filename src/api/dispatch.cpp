// DispatchPlan and what it packs: the checks of arguments, and the copies of rows.
#include "plan/dispatch.hpp"

#include "api/check.hpp"
#include "api/dispatch_rows.hpp"
#include "api/indices.hpp"
#include "arrays/contiguous.hpp"
#include "arrays/matrix_batch.hpp"
#include "arrays/views.hpp"
#include "cpu/each_row.hpp"
#include "plan/routing.hpp"
#include "threads/node_binding.hpp"

#include <gqmm/dispatch.hpp>
#include <gqmm/moe.hpp>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <numeric>
#include <string_view>
#include <utility>

namespace gqmm {

using namespace detail;

namespace {

constexpr std::string_view owners_op = "ExpertOwners";
constexpr std::string_view plan_op = "DispatchPlan";
constexpr std::string_view pack_rows_op = "pack_rows";
constexpr std::string_view local_ids_op = "local_ids";
constexpr std::string_view pack_results_op = "pack_results";
constexpr std::string_view return_counts_op = "return_counts";
constexpr std::string_view unpack_op = "unpack";
constexpr std::string_view combine_op = "combine";

/// Ids are int32 in messages.
constexpr std::int64_t most_experts = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t any_number = std::numeric_limits<std::int64_t>::max();

/// The values of an array of numbers, of which none is negative.
std::vector<std::int64_t> load_numbers(std::string_view op, std::string_view name, const array& numbers) {
  return load_indices(op, {.name = name, .indices_name = name, .leading = numbers.shape(), .indices = &numbers}, any_number);
}

/// The values of an array of experts' ids, where negative ones became no_expert.
std::vector<std::int64_t> load_ids(std::string_view op, std::string_view name, const array& ids) {
  return load_indices(op, {.name = name, .indices_name = name, .leading = ids.shape(), .indices = &ids, .missing = Missing::zero},
                      any_number);
}

/// An array that cannot be written, so that nobody changes a plan.
template <class T>
array make_integers(Shape shape, const std::vector<T>& values) {
  const auto owner = std::make_shared<const std::vector<T>>(values);
  return array::borrow(owner->data(), std::move(shape), *dtype_of<T>(), {}, owner);
}

template <class T>
array make_vector(const std::vector<T>& values) {
  return make_integers({static_cast<std::int64_t>(values.size())}, values);
}

void check_vector(std::string_view op, std::string_view name, const array& vector, std::string_view expected) {
  if (vector.rank() != 1) {
    fail(op, "{} has shape {}; pass {}", name, to_string(vector.shape()), expected);
  }
}

void check_ranks(std::string_view op, int ranks) {
  if (ranks < 1) {
    fail(op, "ranks = {} is not positive; pass the number of ranks", ranks);
  }
}

OwnerTable table_of(const array& owners) {
  check_vector(owners_op, "owners", owners, "(E,), the rank of each expert");
  OwnerTable table;
  for (const std::int64_t rank : load_numbers(owners_op, "owners", owners)) {
    if (rank > std::numeric_limits<int>::max()) {
      fail(owners_op, "owners[{}] = {} is too large for a rank", table.experts(), rank);
    }
    const int narrow = static_cast<int>(rank);
    table.add({&narrow, 1});
  }
  return table;
}

OwnerTable table_of(const std::vector<std::vector<int>>& owners) {
  OwnerTable table;
  for (const std::vector<int>& ranks : owners) {
    const std::int64_t expert = table.experts();
    if (ranks.empty()) {
      fail(owners_op, "owners[{}] is empty; each expert needs a rank that holds it", expert);
    }
    for (auto rank = ranks.begin(); rank != ranks.end(); ++rank) {
      if (*rank < 0) {
        fail(owners_op, "owners[{}] has rank {}; ranks are 0 or more", expert, *rank);
      }
      if (std::find(ranks.begin(), rank, *rank) != rank) {
        fail(owners_op, "owners[{}] has rank {} twice; a rank holds an expert once", expert, *rank);
      }
    }
    table.add(ranks);
  }
  return table;
}

/// A table in which each expert has one rank, owner(expert).
template <class Owner>
OwnerTable table_of(std::int64_t num_experts, int ranks, Owner owner) {
  check_ranks(owners_op, ranks);
  if (num_experts < 0 || num_experts > most_experts) {
    fail(owners_op, "num_experts = {} is outside 0 ... {}", num_experts, most_experts);
  }
  OwnerTable table;
  for (std::int64_t expert = 0; expert < num_experts; ++expert) {
    const int rank = owner(expert);
    table.add({&rank, 1});
  }
  return table;
}

void check_owners(const OwnerTable& owners, int ranks) {
  for (std::int64_t expert = 0; expert < owners.experts(); ++expert) {
    for (const int rank : owners.of(expert)) {
      if (rank >= ranks) {
        fail(plan_op, "owners: expert {} belongs to rank {}, but there are {} ranks, 0 ... {}", expert, rank, ranks, ranks - 1);
      }
    }
  }
}

std::vector<std::int64_t> checked_ids(const array& topk_ids, std::int64_t num_experts) {
  if (topk_ids.rank() == 0) {
    fail(plan_op, "topk_ids is a scalar; pass (…, k), the experts of each token");
  }
  std::vector<std::int64_t> ids = load_ids(plan_op, "topk_ids", topk_ids);
  const auto wrong = std::find_if(ids.begin(), ids.end(), [&](std::int64_t id) { return id >= num_experts; });
  if (wrong != ids.end()) {
    fail(plan_op,
         "topk_ids{} = {} is out of range: there are {} experts, so ids must be below that, or negative for a slot of nobody",
         position_text(topk_ids.shape(), wrong - ids.begin()), *wrong, num_experts);
  }
  return ids;
}

std::span<const std::int64_t> values_of(const array& int64s) {
  return {int64s.data<std::int64_t>(), static_cast<std::size_t>(int64s.size())};
}

/// The shape of x and of the layer's result: that of the ids with `last` for their k.
Shape token_shape(const Shape& ids, std::int64_t last) {
  Shape shape = ids;
  shape.back() = last;
  return shape;
}

void check_slots(std::string_view op, const array& slots, const Shape& ids) {
  if (slots.rank() < 1 || Shape(slots.shape().begin(), slots.shape().end() - 1) != ids) {
    fail(op, "slots has shape {} but ids has shape {}; slots must have a row for each id", to_string(slots.shape()),
         to_string(ids));
  }
}

/// The ids of rows that came, (rows, k).
std::vector<std::int64_t> load_received_ids(std::string_view op, const array& ids) {
  if (ids.rank() != 2) {
    fail(op, "ids has shape {}; pass (rows, k), the ids that came with the rows", to_string(ids.shape()));
  }
  return load_ids(op, "ids", ids);
}

}  // namespace

struct ExpertOwners::Table : OwnerTable {};

ExpertOwners::ExpertOwners(Table table) : table_(std::make_shared<const Table>(std::move(table))) {}
ExpertOwners::ExpertOwners(const array& owners) : ExpertOwners(Table{table_of(owners)}) {}
ExpertOwners::ExpertOwners(const std::vector<std::vector<int>>& owners) : ExpertOwners(Table{table_of(owners)}) {}

ExpertOwners ExpertOwners::contiguous(std::int64_t num_experts, int ranks) {
  return ExpertOwners(
      Table{table_of(num_experts, ranks, [&](std::int64_t expert) { return static_cast<int>(expert * ranks / num_experts); })});
}

ExpertOwners ExpertOwners::round_robin(std::int64_t num_experts, int ranks) {
  return ExpertOwners(Table{table_of(num_experts, ranks, [&](std::int64_t expert) { return static_cast<int>(expert % ranks); })});
}

ExpertOwners ExpertOwners::by_load(const array& counts, int ranks, std::int64_t extra_replicas) {
  check_ranks(owners_op, ranks);
  check_vector(owners_op, "counts", counts, "(E,), how often each expert was chosen");
  if (extra_replicas < 0) {
    fail(owners_op, "extra_replicas = {} is negative", extra_replicas);
  }
  return ExpertOwners(Table{owners_by_load(load_numbers(owners_op, "counts", counts), ranks, extra_replicas)});
}

std::int64_t ExpertOwners::num_experts() const noexcept { return table_->experts(); }

std::span<const int> ExpertOwners::ranks_of(std::int64_t expert) const {
  if (expert < 0 || expert >= num_experts()) {
    fail(owners_op, "expert {} does not exist; there are {}", expert, num_experts());
  }
  return table_->of(expert);
}

std::vector<std::int64_t> ExpertOwners::experts_of(int rank) const {
  std::vector<std::int64_t> experts;
  for (std::int64_t expert = 0; expert < num_experts(); ++expert) {
    const std::span<const int> ranks = table_->of(expert);
    if (std::find(ranks.begin(), ranks.end(), rank) != ranks.end()) {
      experts.push_back(expert);
    }
  }
  return experts;
}

DispatchPlan::DispatchPlan(const array& topk_ids, const ExpertOwners& owners, int rank, int ranks, std::int64_t num_experts)
    : rank_(rank), ranks_(ranks), num_experts_(num_experts), shape_(topk_ids.shape()) {
  check_ranks(plan_op, ranks);
  if (rank < 0 || rank >= ranks) {
    fail(plan_op, "rank = {} is outside 0 ... {}", rank, ranks - 1);
  }
  if (num_experts != owners.num_experts()) {
    fail(plan_op, "num_experts = {} but owners has {} experts; they must be equal", num_experts, owners.num_experts());
  }
  if (num_experts > most_experts) {
    fail(plan_op, "num_experts = {} does not fit int32, the type of ids in messages", num_experts);
  }
  check_owners(*owners.table_, ranks);
  const std::vector<std::int64_t> ids = checked_ids(topk_ids, num_experts);
  const std::int64_t k = shape_.back();
  const Dispatch parts = dispatch(ids, k, *owners.table_, ranks);
  send_counts_ = make_vector(parts.rows);
  recv_counts_ = make_vector(parts.results);
  send_rows_ = make_vector(parts.tokens);
  send_ids_ = make_integers({static_cast<std::int64_t>(parts.tokens.size()), k}, parts.experts);
  slot_of_ = make_vector(parts.slots);
}

array detail::gather_rows(const array& from, std::span<const std::int64_t> rows, const Stream& stream) {
  const auto count = static_cast<std::int64_t>(rows.size());
  array result = array::empty({count, from.dim(-1)}, from.dtype());
  if (result.size() == 0) {
    return result;
  }
  const array source = to_contiguous_rows(as_matrices(from));
  const MatrixBatch batch = MatrixBatch::of_rows(source);
  std::byte* const to = result.mutable_bytes();
  const std::size_t bytes = result.nbytes() / static_cast<std::size_t>(count);
  cpu::for_each_row(count, from.dim(-1), stream.threads, [&](std::int64_t row) {
    std::memcpy(to + static_cast<std::size_t>(row) * bytes, batch.matrix(rows[static_cast<std::size_t>(row)]), bytes);
  });
  return result;
}

array pack_rows(const DispatchPlan& plan, const array& x, const Stream& stream) {
  const threads::NodeBinding binding(stream);
  check_stream(pack_rows_op, stream);
  if (x.rank() == 0 || x.shape() != token_shape(plan.shape(), x.dim(-1))) {
    fail(pack_rows_op, "x has shape {} but topk_ids has shape {}; x must be (…, H) with the same leading dimensions",
         to_string(x.shape()), to_string(plan.shape()));
  }
  return gather_rows(x, values_of(plan.send_rows()), stream);
}

array local_ids(const array& ids, const ExpertOwners& owners, int rank) {
  const std::vector<std::int64_t> experts = owners.experts_of(rank);
  std::vector<std::int64_t> local = load_ids(local_ids_op, "ids", ids);
  for (auto id = local.begin(); id != local.end(); ++id) {
    if (*id == no_expert) {
      continue;
    }
    const auto held = std::lower_bound(experts.begin(), experts.end(), *id);
    if (held == experts.end() || *held != *id) {
      fail(local_ids_op, "ids{} = {} is no expert of rank {}; check that all ranks have the same owner map",
           position_text(ids.shape(), id - local.begin()), *id, rank);
    }
    *id = held - experts.begin();
  }
  return make_integers(ids.shape(), local);
}

array pack_results(const array& slots, const array& ids, const Stream& stream) {
  const threads::NodeBinding binding(stream);
  check_stream(pack_results_op, stream);
  const std::vector<std::int64_t> experts = load_received_ids(pack_results_op, ids);
  check_slots(pack_results_op, slots, ids.shape());
  std::vector<std::int64_t> rows;
  for (std::size_t slot = 0; slot < experts.size(); ++slot) {
    if (experts[slot] != no_expert) {
      rows.push_back(static_cast<std::int64_t>(slot));
    }
  }
  return gather_rows(slots, rows, stream);
}

array return_counts(const array& ids, const array& row_counts) {
  const std::vector<std::int64_t> experts = load_received_ids(return_counts_op, ids);
  check_vector(return_counts_op, "row_counts", row_counts, "(sources,), the rows of each source");
  std::vector<std::int64_t> counts = load_numbers(return_counts_op, "row_counts", row_counts);
  std::int64_t rows = 0;
  for (std::int64_t& count : counts) {
    if (count > ids.dim(0) - rows) {
      rows = any_number;
      break;
    }
    const auto begin = experts.begin() + rows * ids.dim(1);
    rows += count;
    count = std::count_if(begin, experts.begin() + rows * ids.dim(1), [](std::int64_t id) { return id != no_expert; });
  }
  if (rows != ids.dim(0)) {
    fail(return_counts_op, "row_counts adds up to {} rows than the {} of ids", rows > ids.dim(0) ? "more" : "fewer", ids.dim(0));
  }
  return make_vector(counts);
}

array detail::unpack_parts(const DispatchPlan& plan, std::span<const array> parts, const Stream& stream) {
  Shape shape = plan.shape();
  shape.push_back(parts.front().dim(1));
  array result = array::empty(std::move(shape), parts.front().dtype());
  if (result.size() == 0) {
    return result;
  }
  std::vector<const std::byte*> result_of(static_cast<std::size_t>(result.size() / result.dim(-1)), nullptr);
  std::vector<array> sources;  // they own the rows
  auto slot = values_of(plan.slot_of()).begin();
  for (const array& part : parts) {
    const array& source = sources.emplace_back(to_contiguous_rows(part));
    for (std::int64_t row = 0; row < source.dim(0); ++row) {
      result_of[static_cast<std::size_t>(*slot++)] = source.bytes() + row * source.stride(0);
    }
  }
  std::byte* const to = result.mutable_bytes();
  const auto bytes = static_cast<std::size_t>(result.dim(-1) * result.itemsize());
  cpu::for_each_row(static_cast<std::int64_t>(result_of.size()), result.dim(-1), stream.threads, [&](std::int64_t flat) {
    const auto at = static_cast<std::size_t>(flat);
    if (result_of[at] == nullptr) {
      std::memset(to + at * bytes, 0, bytes);
    } else {
      std::memcpy(to + at * bytes, result_of[at], bytes);
    }
  });
  return result;
}

array unpack(const DispatchPlan& plan, const array& received, const Stream& stream) {
  const threads::NodeBinding binding(stream);
  check_stream(unpack_op, stream);
  const std::int64_t results = plan.slot_of().size();
  if (received.rank() != 2 || received.dim(0) != results) {
    fail(unpack_op, "received has shape {}; it must be ({}, H), the results that recv_counts counts", to_string(received.shape()),
         results);
  }
  return unpack_parts(plan, {&received, 1}, stream);
}

array combine(const DispatchPlan& plan, const array& slots, const array& topk_weights, const Stream& stream) {
  check_slots(combine_op, slots, plan.shape());
  if (topk_weights.shape() != plan.shape()) {
    fail(combine_op, "topk_weights has shape {} but topk_ids has shape {}; they must be equal", to_string(topk_weights.shape()),
         to_string(plan.shape()));
  }
  return moe_combine(slots, topk_weights, {.stream = stream});
}

}  // namespace gqmm
