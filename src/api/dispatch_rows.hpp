// Copies of rows between arrays and messages, for dispatch.hpp and ExpertLayer.
#pragma once

#include "namespaces.hpp"

#include <gqmm/array.hpp>
#include <gqmm/dispatch.hpp>
#include <gqmm/stream.hpp>

#include <cstdint>
#include <span>

namespace gqmm::detail {

/// Copies rows of `from`, in which each last dimension is a row: row i of the result is row rows[i].
array gather_rows(const array& from, std::span<const std::int64_t> rows, const Stream& stream);

/// unpack of results that lie in several arrays: those of the plan, in its order. There is one array or more, each (results, H),
/// and they have as many rows as the plan has results.
array unpack_parts(const DispatchPlan& plan, std::span<const array> parts, const Stream& stream);

}  // namespace gqmm::detail
