// Numbers of threads that environment variables ask for.
#pragma once

#include <optional>
#include <string>

namespace gqmm::threads {

/// What OMP_NUM_THREADS means. Many programs set it for their OpenMP runtime, so a value that means nothing is no error here.
struct OmpNumThreads {
  std::optional<int> threads;
  std::string ignored;  ///< why a value that is set does not count, for `gqmm info`; else empty
};

/// `text`: the variable's value, or nullptr if it is not set. A list ("4,2", one number for each level of nested regions) counts
/// by its first number.
[[nodiscard]] OmpNumThreads parse_omp_num_threads(const char* text);

/// What GQMM_NUM_THREADS means; nothing if it is not set or empty. Throws std::invalid_argument unless the value is a whole
/// number from 1 to Stream::max_threads.
[[nodiscard]] std::optional<int> parse_gqmm_num_threads(const char* text);

}  // namespace gqmm::threads
