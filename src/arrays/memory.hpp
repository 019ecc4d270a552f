// Memory for results and packed weights.
#pragma once

#include "namespaces.hpp"

#include <cstddef>
#include <memory>

namespace gqmm::detail {

/// Allocates `bytes` bytes of uninitialised memory, aligned to 64 bytes. The last owner frees it. Blocks of at least 16 MiB are
/// aligned to huge pages and ask the kernel for them. Freed large blocks are kept for the next result, at most 64 MiB in all.
/// Otherwise the kernel would hand out zeroed pages, one page fault at a time, which takes several per cent of a prefill call.
/// Throws std::bad_alloc.
std::shared_ptr<void> allocate_shared(std::size_t bytes);

}  // namespace gqmm::detail
