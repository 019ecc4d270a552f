// gqmm: gather_qmm, the matrix product that runs the experts of quantized mixture-of-experts models.
#pragma once

#include <gqmm/array.hpp>           // IWYU pragma: export
#include <gqmm/export.hpp>          // IWYU pragma: export
#include <gqmm/interrupt.hpp>       // IWYU pragma: export
#include <gqmm/ops.hpp>             // IWYU pragma: export
#include <gqmm/packed_weights.hpp>  // IWYU pragma: export
#include <gqmm/stream.hpp>          // IWYU pragma: export
#include <gqmm/system.hpp>          // IWYU pragma: export
#include <gqmm/types.hpp>           // IWYU pragma: export
