// What recurrences over tokens check and allocate alike.
#pragma once

#include "api/kept_memory.hpp"
#include "api/output.hpp"
#include "namespaces.hpp"
#include "plan/recurrence_problem.hpp"

#include <gqmm/array.hpp>
#include <gqmm/stream.hpp>

#include <optional>
#include <string_view>
#include <vector>

namespace gqmm::detail {

/// The options that all recurrences have.
struct RecurrenceOptions {
  std::string_view op;
  const std::optional<array>& state;
  const std::optional<array>& mask;
  const std::optional<array>& out;
  const std::optional<array>& state_out;
  const Stream& stream;

  template <class Options>
  RecurrenceOptions(std::string_view name, const Options& options)
      : op(name),
        state(options.state),
        mask(options.mask),
        out(options.out),
        state_out(options.state_out),
        stream(options.stream) {}
};

/// The operands of a recurrence, as errors call them.
struct RecurrenceOperands {
  NamedOperand q;
  NamedOperand k;
  NamedOperand v;
  std::vector<NamedOperand> others;      // all but the state and the mask
  std::string_view dimensions_of_state;  // "(batch, heads, …)"

  /// (batch, heads of v, depth of v, depth of k)
  [[nodiscard]] Shape shape_of_state() const {
    return {v.operand->dim(0), v.operand->dim(2), v.operand->dim(3), k.operand->dim(3)};
  }
};

/// Checks q, k, v and the options. It does not check the other operands.
void check_recurrence(const RecurrenceOperands& operands, const RecurrenceOptions& options);

/// Makes the results, and the problem without what only one recurrence has. If there is nothing to compute, its next_state is
/// nullptr.
RecurrenceProblem lower_recurrence(const RecurrenceOperands& operands, const RecurrenceOptions& options, Dtype y_dtype,
                                   KeptMemory& kept, array& y, array& state);

}  // namespace gqmm::detail
