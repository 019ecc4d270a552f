// What the library found on this machine and what it uses.
#pragma once

#include <gqmm/export.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace gqmm {

/// Version of the library, e.g. "0.1.0".
[[nodiscard]] GQMM_API std::string_view version() noexcept;

struct GQMM_API InstructionSet {
  std::string name;         ///< as GQMM_ISA takes it: "scalar"; "avx2", "avxvnni", "avx512bw", "avx512", "avx512vbmi";
                            ///< "neon", "i8mm"
  std::string description;  ///< the extensions it needs
  bool supported;           ///< by this machine
};

/// Every instruction set that the library was built with, from the least to the most capable.
[[nodiscard]] GQMM_API std::vector<InstructionSet> instruction_sets();

/// The one in use: the most capable that is supported, or the one that the environment variable GQMM_ISA names. Throws
/// std::invalid_argument if GQMM_ISA names one that is unknown or unsupported.
[[nodiscard]] GQMM_API std::string_view active_instruction_set();

/// Uses another one from the next call on, whatever GQMM_ISA says. Throws like active_instruction_set. For tests and
/// benchmarks: not to be called while an operator runs.
GQMM_API void set_instruction_set(std::string_view name);

/// Threads that the machine grants this process: the smallest of the affinity mask, the CPU quota of its control group (rounded
/// up) and GQMM_NUM_THREADS, or else OMP_NUM_THREADS. A changed mask counts at once, a changed quota within a second; the
/// variables are read once. If an OpenMP runtime has bound the calling thread (OMP_PROC_BIND, GOMP_CPU_AFFINITY …), the mask from
/// before counts. Throws std::invalid_argument if GQMM_NUM_THREADS is not a whole number from 1 to 4096.
[[nodiscard]] GQMM_API int available_threads();

/// Threads of a call whose stream names no number (Stream::threads), the caller's included: what set_num_threads said last, or
/// available_threads(), whose errors it has.
[[nodiscard]] GQMM_API int get_num_threads();

/// Sets that number for the whole process, from the next call on. It may be larger than available_threads(). 0:
/// available_threads() again. Throws std::invalid_argument if `threads` is negative or above Stream::max_threads.
GQMM_API void set_num_threads(int threads);

}  // namespace gqmm
