// The numbers of threads that environment variables ask for.
#pragma once

#include <optional>
#include <string>

namespace gqmm::threads {

/// What OMP_NUM_THREADS means. A value without a meaning is not an error, because many programs set the variable for their OpenMP
/// runtime.
struct OmpNumThreads {
  std::optional<int> threads;
  std::string ignored;  ///< why a value that is set does not count, for `gqmm info`; empty if it counts
};

/// `text` is the variable's value, or nullptr if it is not set. The value may be a list such as "4,2", with a number for each
/// level of nested regions. Then the first number counts.
[[nodiscard]] OmpNumThreads parse_omp_num_threads(const char* text);

/// What GQMM_NUM_THREADS means. Returns nothing if the variable is not set or empty. Throws std::invalid_argument unless the
/// value is a whole number from 1 to Stream::max_threads.
[[nodiscard]] std::optional<int> parse_gqmm_num_threads(const char* text);

}  // namespace gqmm::threads
