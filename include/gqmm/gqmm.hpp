// gqmm: gather_qmm, the matrix product that runs the experts of quantized mixture-of-experts models. This header includes all
// public headers but gqmm/mpi.hpp, which needs MPI. The following holds for every public function; a comment at a function says
// where it differs.
//
// Threads. Functions may be called from any number of threads at the same time. Arguments are only read, so calls may share them;
// no thread may change an argument, or write its memory, during a call. Two calls must not write to the same `out`. One call at a
// time has the process's team of threads; other calls compute on their caller's thread meanwhile, with the same bits. Calls whose
// stream names a memory node have the team of that node instead.
//
// Fork. A forked child may call every function and gets a team of threads of its own, also if other threads of the parent were
// in a call. If the fork happens inside a call (in the function of an InterruptCheck), the call completes in the parent. In the
// child it throws std::runtime_error if it had several threads.
//
// Other thread runtimes. The library neither loads nor needs OpenMP or another runtime, and works beside them. A call inside a
// parallel region of an OpenMP runtime computes on its caller's thread. The library's threads block all signals.
//
// Exceptions. Functions throw
//   - std::invalid_argument for wrong arguments or environment variables; nothing has been written then,
//   - Interrupted if an InterruptCheck of the calling thread asked to stop, and what the check's function throws,
//   - std::bad_alloc, and std::length_error for a call that would have 2^31 work items or more.
// After an exception no thread works for the call any more, no memory is lost, and the library can be used as before. Arguments
// are unchanged. The contents of `out` are unspecified after any exception but std::invalid_argument.
#pragma once

#include <gqmm/activation.hpp>         // IWYU pragma: export
#include <gqmm/array.hpp>              // IWYU pragma: export
#include <gqmm/attention.hpp>          // IWYU pragma: export
#include <gqmm/convolution.hpp>        // IWYU pragma: export
#include <gqmm/dispatch.hpp>           // IWYU pragma: export
#include <gqmm/expert_layer.hpp>       // IWYU pragma: export
#include <gqmm/explain.hpp>            // IWYU pragma: export
#include <gqmm/export.hpp>             // IWYU pragma: export
#include <gqmm/file_error.hpp>         // IWYU pragma: export
#include <gqmm/gated_delta.hpp>        // IWYU pragma: export
#include <gqmm/gradients.hpp>          // IWYU pragma: export
#include <gqmm/grouped.hpp>            // IWYU pragma: export
#include <gqmm/infer.hpp>              // IWYU pragma: export
#include <gqmm/interrupt.hpp>          // IWYU pragma: export
#include <gqmm/moe.hpp>                // IWYU pragma: export
#include <gqmm/norm.hpp>               // IWYU pragma: export
#include <gqmm/ops.hpp>                // IWYU pragma: export
#include <gqmm/packed_weights.hpp>     // IWYU pragma: export
#include <gqmm/quantized_weights.hpp>  // IWYU pragma: export
#include <gqmm/rope.hpp>               // IWYU pragma: export
#include <gqmm/shape.hpp>              // IWYU pragma: export
#include <gqmm/softmax.hpp>            // IWYU pragma: export
#include <gqmm/ssm.hpp>                // IWYU pragma: export
#include <gqmm/stream.hpp>             // IWYU pragma: export
#include <gqmm/system.hpp>             // IWYU pragma: export
#include <gqmm/types.hpp>              // IWYU pragma: export
