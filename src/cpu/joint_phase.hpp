// A phase of a call whose items come from several sources.
#pragma once

#include "cpu/call_context.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace gqmm::cpu {

/// The items of one source. Costs are relative to those of all sources of the phase.
struct PhasePart {
  std::int64_t count = 0;
  std::function<std::int64_t(std::int64_t item)> cost;
  std::function<void(std::int64_t item, std::int64_t next)> work;  // as in CallContext::add_phase
};

/// A phase with the items of all parts.
class JointPhase {
 public:
  /// Throws std::length_error for too many parts.
  void add(PhasePart part);
  /// Adds the phase to the call.
  void add_to(CallContext& call) &&;

 private:
  static constexpr std::size_t most_parts = 5;  // rows of x in four forms, and missing slots

  /// An item of the phase: which part it belongs to, and its number there.
  struct PartItem {
    std::size_t part;
    std::int64_t item;
  };
  [[nodiscard]] PartItem find(std::int64_t item) const;
  [[nodiscard]] std::int64_t cost(std::int64_t item) const;
  void work(std::int64_t item, std::int64_t next) const;

  std::array<PhasePart, most_parts> parts_;
  std::size_t used_ = 0;
};

}  // namespace gqmm::cpu
