// Runs work that is cut into equal pieces on the process's team of threads.
#pragma once

#include "internal_api.hpp"

#include <cstdint>
#include <functional>

namespace gqmm::threads {

/// Runs work(i) for i = 0 … count − 1 on up to `wanted` threads, the caller's included. Each thread gets a contiguous share.
/// Throws what TeamCall::run throws, and std::invalid_argument if GQMM_NUM_THREADS has a wrong value.
GQMM_INTERNAL_API void share_out(std::int64_t count, int wanted, const std::function<void(std::int64_t i)>& work);

}  // namespace gqmm::threads
