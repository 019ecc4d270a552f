#include "cpu/cpuid.hpp"

#include "threads/first_use.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace gqmm::cpu {
namespace {

constexpr bool has_bit(std::uint64_t value, int bit) { return (value >> bit & 1U) != 0; }

// Bits of XCR0, the register states that the operating system saves and restores.
constexpr std::uint64_t ymm_states = 0x06;  // xmm and the upper halves of ymm
constexpr std::uint64_t zmm_states = 0xe6;  // the ymm states, opmask, the upper halves of zmm 0 to 15, and zmm 16 to 31

}  // namespace

X86Features find_x86_features(const CpuidSource& source) {
  X86Features found;
  // A leaf beyond the largest returns the values of another leaf on Intel's processors, so it must not be read.
  const std::uint32_t largest_leaf = source.cpuid(0, 0).eax;
  if (largest_leaf < 1) {
    return found;
  }
  const CpuidRegisters leaf1 = source.cpuid(1, 0);
  constexpr int fma_bit = 12;
  constexpr int osxsave_bit = 27;
  constexpr int avx_bit = 28;
  constexpr int f16c_bit = 29;
  if (!has_bit(leaf1.ecx, osxsave_bit)) {
    return found;
  }
  const std::uint64_t saved_states = source.xcr0();
  if (!has_bit(leaf1.ecx, avx_bit) || (saved_states & ymm_states) != ymm_states) {
    return found;
  }
  found.fma = has_bit(leaf1.ecx, fma_bit);
  found.f16c = has_bit(leaf1.ecx, f16c_bit);
  if (largest_leaf < 7) {
    return found;
  }
  const CpuidRegisters leaf7 = source.cpuid(7, 0);
  const std::uint32_t largest_subleaf = leaf7.eax;
  found.avx2 = has_bit(leaf7.ebx, 5);
  found.avxvnni = largest_subleaf >= 1 && has_bit(source.cpuid(7, 1).eax, 4);
  if ((saved_states & zmm_states) != zmm_states || !has_bit(leaf7.ebx, 16)) {
    return found;
  }
  found.avx512f = true;
  found.avx512dq = has_bit(leaf7.ebx, 17);
  found.avx512bw = has_bit(leaf7.ebx, 30);
  found.avx512vl = has_bit(leaf7.ebx, 31);
  found.avx512vbmi = has_bit(leaf7.ecx, 1);
  found.avx512vbmi2 = has_bit(leaf7.ecx, 6);
  found.avx512vnni = has_bit(leaf7.ecx, 11);
  return found;
}

bool find_zen3_or_zen4(const CpuidSource& source) {
  constexpr std::uint32_t auth = 0x68747541;  // "Auth", the first quarter of "AuthenticAMD"
  const CpuidRegisters leaf0 = source.cpuid(0, 0);
  if (leaf0.eax < 1 || leaf0.ebx != auth) {
    return false;
  }
  const std::uint32_t eax = source.cpuid(1, 0).eax;
  const std::uint32_t family = (eax >> 8 & 0xfU) + (eax >> 20 & 0xffU);
  return family == 0x19;
}

#if defined(__x86_64__)

const CpuidSource& this_processor() noexcept {
  static constexpr CpuidSource source = {
      .cpuid =
          [](std::uint32_t leaf, std::uint32_t subleaf) {
            CpuidRegisters registers;
            __cpuid_count(leaf, subleaf, registers.eax, registers.ebx, registers.ecx, registers.edx);
            return registers;
          },
      .xcr0 = []() -> std::uint64_t {
        // This is assembly code, because the compilers allow _xgetbv only in functions that are compiled for XSAVE.
        std::uint32_t low = 0;
        std::uint32_t high = 0;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return std::uint64_t{high} << 32 | low;
      },
  };
  return source;
}

const X86Features& x86_features() {
  constinit static threads::FirstUse<const X86Features> found;
  return found.get([] { return find_x86_features(this_processor()); });
}

#endif

}  // namespace gqmm::cpu
