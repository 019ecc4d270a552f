// A phase of a call whose items come from several sources.
#pragma once

#include "cpu/call_context.hpp"

#include <cstdint>
#include <functional>
#include <vector>

namespace gqmm::cpu {

/// The items of one source. Costs are relative to those of all sources of the phase.
struct PhasePart {
  std::int64_t count = 0;
  std::function<std::int64_t(std::int64_t item)> cost;
  std::function<void(std::int64_t item, std::int64_t next)> work;  // as in CallContext::add_phase
};

/// Adds one phase with the items of all parts.
void add_joint_phase(CallContext& call, std::vector<PhasePart> parts);

}  // namespace gqmm::cpu
