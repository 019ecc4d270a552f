// Dispatch: which rank computes each slot when the experts of a layer lie on several ranks.
#pragma once

#include "namespaces.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace gqmm::detail {

/// The ranks that hold each expert: those of expert e are ranks[first[e]] … ranks[first[e + 1] − 1].
struct OwnerTable {
  std::vector<std::int64_t> first = {0};
  std::vector<int> ranks;

  void add(std::span<const int> ranks_of_expert) {
    ranks.insert(ranks.end(), ranks_of_expert.begin(), ranks_of_expert.end());
    first.push_back(static_cast<std::int64_t>(ranks.size()));
  }
  [[nodiscard]] std::int64_t experts() const noexcept { return static_cast<std::int64_t>(first.size()) - 1; }
  [[nodiscard]] std::span<const int> of(std::int64_t expert) const {
    const auto e = static_cast<std::size_t>(expert);
    return std::span(ranks).subspan(static_cast<std::size_t>(first[e]), static_cast<std::size_t>(first[e + 1] - first[e]));
  }
};

/// Places experts by their load, and gives those with the most load `extra_replicas` more (ExpertOwners::by_load).
OwnerTable owners_by_load(std::span<const std::int64_t> counts, int ranks, std::int64_t extra_replicas);

/// Where the rows and results of one rank's tokens go. Rows and results are sorted by rank, and by token and slot within a rank.
struct Dispatch {
  std::vector<std::int64_t> rows;     // per rank, how many rows it needs: one for each token of which it computes a slot
  std::vector<std::int64_t> results;  // per rank, how many slots it computes
  std::vector<std::int64_t> tokens;   // per row, its token
  std::vector<std::int32_t> experts;  // per row and slot, the expert, or no_expert if this rank does not compute the slot
  std::vector<std::int64_t> slots;    // per result, token · k + slot
};

/// Dispatches the slots of tokens with k experts each. `ids` has an expert or no_expert for each slot, token by token. Of the
/// ranks that hold an expert, slot j of token t takes number (t + j) mod their number. So the choice depends on nothing else.
Dispatch dispatch(std::span<const std::int64_t> ids, std::int64_t k, const OwnerTable& owners, int ranks);

}  // namespace gqmm::detail
