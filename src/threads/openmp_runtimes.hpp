// OpenMP runtimes that other libraries of the process have loaded.
//
// gqmm has no OpenMP runtime of its own. But its callers may run on the threads of one, for example of PyTorch's. And a runtime
// may have bound the calling thread to a single processor. Both change how many threads a call should have.
#pragma once

#include "threads/processor_set.hpp"

#include <optional>

namespace gqmm::threads {

/// True if the calling thread runs inside a parallel region of one of these runtimes. Then the threads of that region use the
/// processors already.
[[nodiscard]] bool in_parallel_region();

/// The processors that the process had before an OpenMP runtime bound the calling thread, whose mask is `bound`. Returns nothing
/// if no runtime bound it. Runtimes bind threads when OMP_PROC_BIND, OMP_PLACES, GOMP_CPU_AFFINITY or KMP_AFFINITY ask for it.
/// libgomp then binds the main thread as soon as it is loaded.
[[nodiscard]] std::optional<ProcessorSet> processors_before_binding(const ProcessorSet& bound);

/// Looks for runtimes that were loaded since the last look. Calls from several threads at once are allowed.
void find_openmp_runtimes();

}  // namespace gqmm::threads
