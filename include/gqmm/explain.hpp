// Describes in words how a product would be computed.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/ops.hpp>
#include <gqmm/packed_weights.hpp>
#include <gqmm/quantized_weights.hpp>

#include <string>

namespace gqmm {

/// Describes what gather_qmm would do with these arguments: the instruction set, and the number of threads and slices. For each
/// expert that is hit, it gives the rows, the path that computes them, the register tile (mr rows, nr outputs) and the number of
/// work items. It computes no product and throws as gather_qmm does. The text is for readers and may change;
/// docs/dev/architecture.md explains its words.
[[nodiscard]] GQMM_API std::string explain(const array& x, const QuantizedWeights& weights, const GatherQmmOptions& options = {});
/// The same over packed weights.
[[nodiscard]] GQMM_API std::string explain(const array& x, const PackedWeights& weights, const GatherQmmOptions& options = {});

}  // namespace gqmm
