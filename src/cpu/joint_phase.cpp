#include "cpu/joint_phase.hpp"

#include "threads/work_shares.hpp"

#include <cstddef>
#include <memory>
#include <utility>

namespace gqmm::cpu {
namespace {

/// An item of a joint phase: which part it belongs to, and its number there.
struct PartItem {
  std::size_t part;
  std::int64_t item;
};

PartItem find(const std::vector<PhasePart>& parts, std::int64_t item) {
  std::size_t part = 0;
  while (item >= parts[part].count) {
    item -= parts[part++].count;
  }
  return {part, item};
}

}  // namespace

void add_joint_phase(CallContext& call, std::vector<PhasePart> parts) {
  if (parts.size() == 1) {
    PhasePart& only = parts.front();
    call.add_phase(only.count, only.cost, std::move(only.work));
    return;
  }
  std::int64_t count = 0;
  for (const PhasePart& part : parts) {
    count += part.count;
  }
  const auto shared = std::make_shared<const std::vector<PhasePart>>(std::move(parts));
  call.add_phase(
      count,
      [&](std::int64_t item) {
        const PartItem at = find(*shared, item);
        return (*shared)[at.part].cost(at.item);
      },
      [shared](std::int64_t item, std::int64_t next) {
        const PartItem at = find(*shared, item);
        std::int64_t next_in_part = threads::WorkShares::none;
        if (next != threads::WorkShares::none) {
          const PartItem after = find(*shared, next);
          next_in_part = after.part == at.part ? after.item : threads::WorkShares::none;
        }
        (*shared)[at.part].work(at.item, next_in_part);
      });
}

}  // namespace gqmm::cpu
