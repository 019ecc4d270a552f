#include "plan/routing.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace gqmm::detail {
namespace {

// Counting touches every expert once. A comparison sort touches every pair log2(pairs) times, at about ten times the cost.
constexpr std::int64_t experts_per_pair_worth_counting = 16;

void counting_sort(std::span<const std::int64_t> rhs, std::int64_t experts, std::vector<std::int64_t>& order) {
  std::vector<std::int64_t> next(static_cast<std::size_t>(experts) + 1, 0);
  for (const std::int64_t expert : rhs) {
    if (expert != no_expert) {
      ++next[static_cast<std::size_t>(expert) + 1];
    }
  }
  std::partial_sum(next.begin(), next.end(), next.begin());
  for (std::size_t pair = 0; pair < rhs.size(); ++pair) {
    if (rhs[pair] != no_expert) {
      order[static_cast<std::size_t>(next[static_cast<std::size_t>(rhs[pair])]++)] = static_cast<std::int64_t>(pair);
    }
  }
}

}  // namespace

Routing route(std::span<const std::int64_t> rhs, std::int64_t experts, bool sorted) {
  const auto pairs = static_cast<std::int64_t>(rhs.size());
  Routing routing;
  const auto expert_of = [&](std::int64_t pair) { return rhs[static_cast<std::size_t>(pair)]; };
  for (std::int64_t pair = 0; pair < pairs; ++pair) {
    if (expert_of(pair) == no_expert) {
      routing.missing.push_back(pair);
    }
  }
  routing.order.resize(rhs.size() - routing.missing.size());

  if (!sorted && experts <= experts_per_pair_worth_counting * pairs) {
    counting_sort(rhs, experts, routing.order);
  } else {
    std::size_t position = 0;
    for (std::int64_t pair = 0; pair < pairs; ++pair) {
      if (expert_of(pair) != no_expert) {
        routing.order[position++] = pair;
      }
    }
    if (!sorted) {
      std::sort(routing.order.begin(), routing.order.end(),
                [&](std::int64_t a, std::int64_t b) { return std::pair(expert_of(a), a) < std::pair(expert_of(b), b); });
    }
  }
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(routing.order.size()); ++i) {
    const std::int64_t expert = expert_of(routing.order[static_cast<std::size_t>(i)]);
    if (routing.segments.empty() || routing.segments.back().expert != expert) {
      routing.segments.push_back({expert, i, i});
    }
    routing.segments.back().last = i + 1;
  }
  return routing;
}

}  // namespace gqmm::detail
