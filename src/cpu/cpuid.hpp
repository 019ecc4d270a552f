// This file finds the instruction sets that an x86-64 processor has and its operating system allows. The library executes CPUID
// itself, because the compilers' __builtin_cpu_supports reports nothing where their start-up code has not run.
#pragma once

#include "internal_api.hpp"

#include <cstdint>

namespace gqmm::cpu {

/// What the CPUID instruction returns for a leaf and a subleaf.
struct CpuidRegisters {
  std::uint32_t eax = 0;
  std::uint32_t ebx = 0;
  std::uint32_t ecx = 0;
  std::uint32_t edx = 0;
};

/// The two instructions that give the answer. They are function pointers, so that tests can simulate any processor.
struct CpuidSource {
  /// Executes CPUID, for any leaf and subleaf.
  CpuidRegisters (*cpuid)(std::uint32_t leaf, std::uint32_t subleaf);
  /// Executes XGETBV for register 0, XCR0. It may be called only where CPUID reports OSXSAVE; elsewhere the instruction traps.
  std::uint64_t (*xcr0)();
};

/// The extensions that programs may use: the processor has the instructions, and the operating system saves their registers.
struct X86Features {
  bool fma = false;
  bool f16c = false;
  bool avx2 = false;
  bool avxvnni = false;
  bool avx512f = false;
  bool avx512bw = false;
  bool avx512dq = false;
  bool avx512vl = false;
  bool avx512vbmi = false;
  bool avx512vbmi2 = false;
  bool avx512vnni = false;

  friend bool operator==(const X86Features&, const X86Features&) = default;
};

/// Decodes the bits that Intel's Software Developer's Manual documents in volume 2A (CPUID) and volume 1, chapter 13 (XCR0).
/// AMD's bits are the same.
[[nodiscard]] X86Features find_x86_features(const CpuidSource& source);

/// Whether the processor is of AMD's family 19h: Zen 3 or Zen 4. GCC 12 and its libgcc have no name for Zen 4.
[[nodiscard]] bool find_zen3_or_zen4(const CpuidSource& source);

#if defined(__x86_64__)
/// The processor that this program runs on.
[[nodiscard]] const CpuidSource& this_processor() noexcept;

/// The features of this processor. They are found once.
[[nodiscard]] GQMM_INTERNAL_API const X86Features& x86_features();
#endif

}  // namespace gqmm::cpu
