// Memory of results and packed weights.
#pragma once

#include <cstddef>
#include <memory>

namespace gqmm {

/// `bytes` of uninitialised memory, aligned to 64 bytes; it goes back with the last owner. Blocks of at least 16 MiB are aligned
/// to huge pages and ask the kernel for them. Large blocks are kept for the next result (at most 64 MiB in all): the kernel would
/// hand out zeroed pages one fault at a time, several per cent of a prefill call.
std::shared_ptr<void> allocate_shared(std::size_t bytes);

}  // namespace gqmm
