#include "cpu/joint_phase.hpp"

#include "threads/work_shares.hpp"

#include <memory>
#include <stdexcept>
#include <utility>

namespace gqmm::cpu {

void JointPhase::add(PhasePart part) {
  if (used_ == most_parts) {
    throw std::length_error("[gqmm] a phase has too many parts");
  }
  parts_[used_++] = std::move(part);
}

JointPhase::PartItem JointPhase::find(std::int64_t item) const {
  std::size_t part = 0;
  while (item >= parts_[part].count) {
    item -= parts_[part++].count;
  }
  return {part, item};
}

std::int64_t JointPhase::cost(std::int64_t item) const {
  const PartItem at = find(item);
  return parts_[at.part].cost(at.item);
}

void JointPhase::work(std::int64_t item, std::int64_t next) const {
  const PartItem at = find(item);
  std::int64_t next_in_part = threads::WorkShares::none;
  if (next != threads::WorkShares::none) {
    const PartItem after = find(next);
    next_in_part = after.part == at.part ? after.item : threads::WorkShares::none;
  }
  parts_[at.part].work(at.item, next_in_part);
}

void JointPhase::add_to(CallContext& call) && {
  if (used_ == 1) {
    PhasePart& only = parts_.front();
    call.add_phase(only.count, only.cost, std::move(only.work));
    return;
  }
  std::int64_t count = 0;
  for (const PhasePart& part : parts_) {
    count += part.count;
  }
  const auto shared = std::make_shared<const JointPhase>(std::move(*this));
  call.add_phase(
      count, [&](std::int64_t item) { return shared->cost(item); },
      [shared](std::int64_t item, std::int64_t next) { shared->work(item, next); });
}

}  // namespace gqmm::cpu
