#include "cpu/dispatch.hpp"

#include "cpu/cpuid.hpp"
#include "cpu/instruction_set_names.hpp"
#include "cpu/targets/targets.hpp"

#include <gqmm/system.hpp>

#include <fmt/format.h>

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace gqmm {
namespace {

struct Target {
  const char* name;
  const char* description;
  bool (*supported)();
  const cpu::KernelTable& (*kernels)();
  const cpu::LayerKernels& (*layers)();
};

#if defined(__x86_64__)
[[maybe_unused]] bool has_avx2() {
  const cpu::X86Features& has = cpu::x86_features();
  return has.avx2 && has.fma && has.f16c;
}
[[maybe_unused]] bool has_avxvnni() { return has_avx2() && cpu::x86_features().avxvnni; }
[[maybe_unused]] bool has_avx512bw() {
  const cpu::X86Features& has = cpu::x86_features();
  return has_avx2() && has.avx512f && has.avx512bw && has.avx512dq && has.avx512vl;
}
[[maybe_unused]] bool has_avx512vnni() { return has_avx512bw() && cpu::x86_features().avx512vnni; }
[[maybe_unused]] bool has_avx512vbmi() {
  const cpu::X86Features& has = cpu::x86_features();
  return has_avx512vnni() && has.avx512vbmi && has.avx512vbmi2;
}
#elif defined(__aarch64__)
[[maybe_unused]] bool has_neon_dotprod() { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }
[[maybe_unused]] bool has_neon_i8mm() { return has_neon_dotprod() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0; }
#endif

// The instruction sets from the least to the most capable one. src/CMakeLists.txt decides which of them are in this build.
constexpr Target targets[] = {
    {"scalar", "any CPU", [] { return true; }, cpu::scalar_kernels, cpu::scalar_layers},
#ifdef GQMM_WITH_AVX2
    {"avx2", "AVX2, FMA, F16C", has_avx2, cpu::avx2_kernels, cpu::avx2_layers},
#endif
#ifdef GQMM_WITH_AVXVNNI
    {"avxvnni", "AVX2, FMA, F16C, AVX-VNNI", has_avxvnni, cpu::avxvnni_kernels, cpu::avx2_layers},
#endif
#ifdef GQMM_WITH_AVX512BW
    {"avx512bw", "AVX-512 F, BW, DQ, VL", has_avx512bw, cpu::avx512bw_kernels, cpu::avx512bw_layers},
#endif
#ifdef GQMM_WITH_AVX512VNNI
    {"avx512vnni", "AVX-512 F, BW, DQ, VL, VNNI", has_avx512vnni, cpu::avx512vnni_kernels, cpu::avx512bw_layers},
#endif
#ifdef GQMM_WITH_AVX512VBMI
    {"avx512vbmi", "AVX-512 F, BW, DQ, VL, VNNI, VBMI, VBMI2", has_avx512vbmi, cpu::avx512vbmi_kernels, cpu::avx512bw_layers},
#endif
#ifdef GQMM_WITH_NEON_DOTPROD
    {"neon-dotprod", "NEON, DotProd", has_neon_dotprod, cpu::neon_dotprod_kernels, cpu::neon_dotprod_layers},
#endif
#ifdef GQMM_WITH_NEON_I8MM
    {"neon-i8mm", "NEON, DotProd, I8MM", has_neon_i8mm, cpu::neon_i8mm_kernels, cpu::neon_dotprod_layers},
#endif
};

const Target& target_by_name(std::string_view name, std::string_view source) {
  std::string known;
  for (const Target& target : targets) {
    if (target.name == cpu::current_name(name)) {
      if (!target.supported()) {
        throw std::invalid_argument(fmt::format("[gqmm] {} = \"{}\", but this machine lacks {}; `gqmm info` lists what it has",
                                                source, name, target.description));
      }
      return target;
    }
    known += fmt::format("{}\"{}\"", known.empty() ? "" : ", ", target.name);
  }
  throw std::invalid_argument(
      fmt::format("[gqmm] {} = \"{}\" is not an instruction set of this build; use one of {}", source, name, known));
}

const Target& default_target() {
  const char* pinned = std::getenv("GQMM_ISA");
  if (pinned != nullptr && *pinned != '\0') {
    return target_by_name(pinned, "GQMM_ISA");
  }
  const Target* best = &targets[0];
  for (const Target& target : targets) {
    best = target.supported() ? &target : best;
  }
  return *best;
}

std::atomic<const Target*> active{nullptr};

const Target& active_target() {
  const Target* target = active.load(std::memory_order_acquire);
  if (target == nullptr) {
    target = &default_target();  // several threads may come here at once; all find the same target
    active.store(target, std::memory_order_release);
  }
  return *target;
}

}  // namespace

std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets;
  for (const Target& target : targets) {
    sets.push_back({target.name, target.description, target.supported()});
  }
  return sets;
}

std::string_view active_instruction_set() { return active_target().name; }

void set_instruction_set(std::string_view name) {
  active.store(&target_by_name(name, "set_instruction_set"), std::memory_order_release);
}

namespace cpu {

const KernelTable& active_kernels() { return active_target().kernels(); }

const LayerKernels& active_layers() { return active_target().layers(); }

}  // namespace cpu
}  // namespace gqmm
