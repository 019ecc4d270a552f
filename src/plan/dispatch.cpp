#include "plan/dispatch.hpp"

#include "plan/routing.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

namespace gqmm::detail {
namespace {

constexpr int no_rank = -1;
constexpr std::int64_t no_token = -1;

/// The rank that computes each slot, or no_rank.
std::vector<int> ranks_of_slots(std::span<const std::int64_t> ids, std::int64_t k, const OwnerTable& owners) {
  std::vector<int> ranks(ids.size(), no_rank);
  for (std::size_t slot = 0; slot < ids.size(); ++slot) {
    if (ids[slot] != no_expert) {
      const std::span<const int> holders = owners.of(ids[slot]);
      const auto flat = static_cast<std::int64_t>(slot);
      ranks[slot] = holders[static_cast<std::size_t>(flat / k + flat % k) % holders.size()];
    }
  }
  return ranks;
}

/// Calls each(slot, rank, is_new_row) for every slot with an expert, in order. is_new_row: whether it is the first slot of its
/// token for its rank.
template <class Each>
void for_each_slot(std::span<const int> ranks_of_slots, std::int64_t k, int ranks, Each each) {
  std::vector<std::int64_t> last_token(static_cast<std::size_t>(ranks), no_token);
  for (std::size_t slot = 0; slot < ranks_of_slots.size(); ++slot) {
    if (ranks_of_slots[slot] != no_rank) {
      const auto rank = static_cast<std::size_t>(ranks_of_slots[slot]);
      const std::int64_t token = static_cast<std::int64_t>(slot) / k;
      each(slot, rank, last_token[rank] != token);
      last_token[rank] = token;
    }
  }
}

/// Where each rank's part begins, and the sum of all parts at the end.
std::vector<std::int64_t> offsets_of(const std::vector<std::int64_t>& counts) {
  std::vector<std::int64_t> offsets(counts.size() + 1, 0);
  std::partial_sum(counts.begin(), counts.end(), offsets.begin() + 1);
  return offsets;
}

/// How many replicas each expert gets.
std::vector<int> replicas_by_load(std::span<const std::int64_t> counts, int ranks, std::int64_t extra) {
  std::vector<int> replicas(counts.size(), 1);
  const auto load = [&](std::size_t e) { return replicas[e] == ranks ? -1.0 : static_cast<double>(counts[e]) / replicas[e]; };
  std::vector<std::size_t> experts(counts.size());
  std::iota(experts.begin(), experts.end(), std::size_t{0});
  for (; extra > 0; --extra) {
    const auto most = std::max_element(experts.begin(), experts.end(), [&](auto a, auto b) { return load(a) < load(b); });
    if (most == experts.end() || replicas[*most] == ranks) {
      break;  // every rank has every expert
    }
    ++replicas[*most];
  }
  return replicas;
}

}  // namespace

OwnerTable owners_by_load(std::span<const std::int64_t> counts, int ranks, std::int64_t extra_replicas) {
  const std::vector<int> replicas = replicas_by_load(counts, ranks, extra_replicas);
  const auto load_of_replica = [&](std::size_t e) { return static_cast<double>(counts[e]) / replicas[e]; };
  std::vector<std::size_t> by_load(counts.size());
  std::iota(by_load.begin(), by_load.end(), std::size_t{0});
  std::sort(by_load.begin(), by_load.end(),
            [&](auto a, auto b) { return std::pair(-load_of_replica(a), a) < std::pair(-load_of_replica(b), b); });

  const std::int64_t total = std::accumulate(replicas.begin(), replicas.end(), std::int64_t{0});
  std::vector<double> load(static_cast<std::size_t>(ranks), 0);
  std::vector<std::int64_t> room(static_cast<std::size_t>(ranks), (total + ranks - 1) / ranks);
  std::vector<std::vector<int>> holders(counts.size());
  for (const std::size_t expert : by_load) {
    std::vector<int> candidates;
    for (int rank = 0; rank < ranks; ++rank) {
      if (room[static_cast<std::size_t>(rank)] > 0) {
        candidates.push_back(rank);
      }
    }
    std::sort(candidates.begin(), candidates.end(), [&](int a, int b) {
      return std::pair(load[static_cast<std::size_t>(a)], a) < std::pair(load[static_cast<std::size_t>(b)], b);
    });
    candidates.resize(std::min(candidates.size(), static_cast<std::size_t>(replicas[expert])));
    for (const int rank : candidates) {
      load[static_cast<std::size_t>(rank)] += load_of_replica(expert);
      --room[static_cast<std::size_t>(rank)];
    }
    std::sort(candidates.begin(), candidates.end());
    holders[expert] = std::move(candidates);
  }
  OwnerTable owners;
  for (const std::vector<int>& ranks_of_expert : holders) {
    owners.add(ranks_of_expert);
  }
  return owners;
}

Dispatch dispatch(std::span<const std::int64_t> ids, std::int64_t k, const OwnerTable& owners, int ranks) {
  const std::vector<int> rank_of_slot = ranks_of_slots(ids, k, owners);
  Dispatch plan;
  plan.rows.assign(static_cast<std::size_t>(ranks), 0);
  plan.results.assign(static_cast<std::size_t>(ranks), 0);
  for_each_slot(rank_of_slot, k, ranks, [&](std::size_t, std::size_t rank, bool is_new_row) {
    plan.rows[rank] += is_new_row ? 1 : 0;
    ++plan.results[rank];
  });

  std::vector<std::int64_t> next_row = offsets_of(plan.rows);
  std::vector<std::int64_t> next_result = offsets_of(plan.results);
  plan.tokens.resize(static_cast<std::size_t>(next_row.back()));
  plan.experts.assign(static_cast<std::size_t>(next_row.back() * k), static_cast<std::int32_t>(no_expert));
  plan.slots.resize(static_cast<std::size_t>(next_result.back()));
  for_each_slot(rank_of_slot, k, ranks, [&](std::size_t slot, std::size_t rank, bool is_new_row) {
    const auto flat = static_cast<std::int64_t>(slot);
    if (is_new_row) {
      plan.tokens[static_cast<std::size_t>(next_row[rank]++)] = flat / k;
    }
    plan.experts[static_cast<std::size_t>((next_row[rank] - 1) * k + flat % k)] = static_cast<std::int32_t>(ids[slot]);
    plan.slots[static_cast<std::size_t>(next_result[rank]++)] = flat;
  });
  return plan;
}

}  // namespace gqmm::detail
