// Work on the rows of arrays between the products of an operator.
#pragma once

#include <cstdint>
#include <functional>

namespace gqmm::cpu {

/// Calls work(row) for the rows 0 … count − 1, in any order and on any thread of a call. Each row has `elements` elements, which
/// decide how many threads are worth it. `threads` is that of the call's stream. Throws as run of a Problem does
/// (cpu/backend.hpp).
void for_each_row(std::int64_t count, std::int64_t elements, int threads, const std::function<void(std::int64_t row)>& work);

}  // namespace gqmm::cpu
