// Facts about this machine and the library, and settings of the process. The functions may be called from any thread at any time,
// except where a comment says otherwise.
#pragma once

#include <gqmm/export.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace gqmm {

/// The version of the library, for example "0.1.0".
[[nodiscard]] GQMM_API std::string_view version() noexcept;

/// The version of the contract about bits (docs/reference/numerics.md): 1, 2, …. It is raised by one when any result of any
/// operator may get other bits, and stays the same otherwise. So results of two builds can be compared bit by bit if, and only
/// if, their versions are equal, whatever version() says. A new operator does not raise it.
[[nodiscard]] GQMM_API int numerics_contract() noexcept;

/// A family of CPU instructions that the library has kernels for.
struct GQMM_API InstructionSet {
  std::string name;         ///< as GQMM_ISA takes it: "scalar"; "avx2", "avxvnni", "avx512bw", "avx512vnni",
                            ///< "avx512vbmi"; "neon-dotprod", "neon-i8mm"
  std::string description;  ///< the extensions it needs
  bool supported;           ///< whether this machine has it
};

/// Every instruction set that the library was built with, from the least to the most capable.
[[nodiscard]] GQMM_API std::vector<InstructionSet> instruction_sets();

/// The name of the instruction set in use. It is the one that set_instruction_set or the environment variable GQMM_ISA names, or
/// else the most capable one that this machine supports. GQMM_ISA may use the former names "avx512", "neon" and "i8mm" for
/// "avx512vnni", "neon-dotprod" and "neon-i8mm". Throws std::invalid_argument if GQMM_ISA names a set that is unknown or
/// unsupported.
[[nodiscard]] GQMM_API std::string_view active_instruction_set();

/// Uses another instruction set from the next call on, whatever GQMM_ISA says. It takes the same names as GQMM_ISA. Throws
/// std::invalid_argument, without a change, if the set is unknown or unsupported. It is for tests and benchmarks and must not be
/// called while an operator runs.
GQMM_API void set_instruction_set(std::string_view name);

/// The number of threads that the machine grants this process. It is the smallest of three numbers: the processors of the
/// affinity mask, the CPU quota of the control group (rounded up), and GQMM_NUM_THREADS, or else OMP_NUM_THREADS. A changed mask
/// counts at once, and a changed quota within a second. The variables are read once. An OpenMP runtime may have bound the calling
/// thread (OMP_PROC_BIND, GOMP_CPU_AFFINITY …); then the mask from before the binding counts. Throws std::invalid_argument if
/// GQMM_NUM_THREADS is not a whole number from 1 to 4096.
[[nodiscard]] GQMM_API int available_threads();

/// The number of threads of a call whose stream names no number (Stream::threads), the caller's included. It is the last value of
/// set_num_threads, or else available_threads(). Throws what available_threads() throws.
[[nodiscard]] GQMM_API int get_num_threads();

/// Sets that number for the whole process, from the next call on. It may be larger than available_threads(). 0 restores
/// available_threads(). Throws std::invalid_argument, without a change, if `threads` is negative or above Stream::max_threads.
GQMM_API void set_num_threads(int threads);

/// A memory node: a part of the machine's memory, with the processors that are nearest to it. Such a part is often a socket.
struct GQMM_API MemoryNode {
  int number;                   ///< as Stream::node and numactl take it
  std::vector<int> processors;  ///< the numbers of those of its processors that the calling thread may use; at least one
};

/// The memory nodes that have processors which the calling thread may use (its affinity mask), in the order of their numbers. If
/// the system does not say which nodes there are, this is one node with the number 0. The system is asked once for the nodes, and
/// for the mask at every call.
[[nodiscard]] GQMM_API std::vector<MemoryNode> memory_nodes();

}  // namespace gqmm
