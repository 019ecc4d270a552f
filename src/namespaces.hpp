// The namespaces of the library.
//
//     gqmm                               public names, which headers under include/ declare
//     gqmm::detail                       names of the API's internals, arrays, formats, plan, weights and the reference
//     gqmm::cpu, gqmm::io, gqmm::threads names of these layers
//
// Layers above gqmm::detail, and the programs and front ends on top of them, see its names without a prefix.
#pragma once

namespace gqmm {
namespace detail {}
namespace cpu {
using namespace detail;
}
namespace io {
using namespace detail;
}
}  // namespace gqmm
