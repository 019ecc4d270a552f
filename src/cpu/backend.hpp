// The CPU backend: runs a Problem on the active instruction set.
#pragma once

#include "plan/problem.hpp"

#include <gqmm/export.hpp>

#include <cstdint>
#include <functional>

namespace gqmm::cpu {

/// The most threads that so many multiply-adds are worth: waking one more would cost more than it saves.
GQMM_API std::int64_t threads_worth(double multiply_adds);

/// The threads that run() asks for: what the problem's stream says, or gqmm::get_num_threads, but no more than the work is worth.
/// Throws std::invalid_argument if GQMM_NUM_THREADS has a wrong value.
GQMM_API int threads_of(const Problem& problem);

/// Runs work(i) for i = 0 … count − 1, each thread a contiguous share, on up to `wanted_threads` threads, the caller's included.
GQMM_API void share_out(std::int64_t count, int wanted_threads, const std::function<void(std::int64_t i)>& work);

/// Writes problem.y. Expects a valid problem. Throws std::bad_alloc; std::length_error where the call is cut into 2^31 items or
/// more; std::invalid_argument if GQMM_NUM_THREADS has a wrong value; Interrupted if an InterruptCheck asked to stop.
GQMM_API void run(const Problem& problem);

}  // namespace gqmm::cpu
