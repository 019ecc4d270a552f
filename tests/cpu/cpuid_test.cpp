// Instruction sets from made-up registers of CPUID and XCR0.
#include "cpu/cpuid.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace gqmm::cpu {
namespace {

/// A processor that nobody has. A leaf that it does not list reads as all ones, as the worst processor would answer.
struct MadeUpProcessor {
  std::map<std::pair<std::uint32_t, std::uint32_t>, CpuidRegisters> leaves;
  std::uint64_t xcr0 = 0;
  bool xcr0_was_read = false;
};

MadeUpProcessor* asked = nullptr;  // functions of CpuidSource have no other way to it

CpuidRegisters cpuid_of_asked(std::uint32_t leaf, std::uint32_t subleaf) {
  const auto found = asked->leaves.find({leaf, subleaf});
  return found != asked->leaves.end() ? found->second : CpuidRegisters{~0U, ~0U, ~0U, ~0U};
}

std::uint64_t xcr0_of_asked() {
  asked->xcr0_was_read = true;
  return asked->xcr0;
}

constexpr CpuidSource made_up = {.cpuid = cpuid_of_asked, .xcr0 = xcr0_of_asked};

X86Features features_of(MadeUpProcessor& processor) {
  asked = &processor;
  return find_x86_features(made_up);
}

constexpr std::uint32_t bit(int n) { return std::uint32_t{1} << n; }
constexpr std::uint32_t fma = bit(12), osxsave = bit(27), avx = bit(28), f16c = bit(29);
constexpr std::uint32_t avx2 = bit(5), avx512f = bit(16), avx512dq = bit(17), avx512bw = bit(30), avx512vl = bit(31);
constexpr std::uint32_t vbmi = bit(1), vbmi2 = bit(6), vnni = bit(11);
constexpr std::uint32_t avxvnni = bit(4);
constexpr std::uint64_t ymm_saved = 0x07, zmm_saved = 0xe7;

/// It has everything, and its operating system saves everything.
MadeUpProcessor complete() {
  return {.leaves = {{{0, 0}, {.eax = 7}},
                     {{1, 0}, {.ecx = fma | osxsave | avx | f16c}},
                     {{7, 0}, {.eax = 1, .ebx = avx2 | avx512f | avx512dq | avx512bw | avx512vl, .ecx = vbmi | vbmi2 | vnni}},
                     {{7, 1}, {.eax = avxvnni}}},
          .xcr0 = zmm_saved};
}

constexpr X86Features everything = {.fma = true,
                                    .f16c = true,
                                    .avx2 = true,
                                    .avxvnni = true,
                                    .avx512f = true,
                                    .avx512bw = true,
                                    .avx512dq = true,
                                    .avx512vl = true,
                                    .avx512vbmi = true,
                                    .avx512vbmi2 = true,
                                    .avx512vnni = true};

X86Features without_avx512(X86Features features) {
  return {.fma = features.fma, .f16c = features.f16c, .avx2 = features.avx2, .avxvnni = features.avxvnni};
}

TEST(Cpuid, AProcessorWithEverythingHasEverything) {
  MadeUpProcessor processor = complete();
  EXPECT_EQ(features_of(processor), everything);
}

TEST(Cpuid, EachFeatureHasItsOwnBit) {
  struct FeatureBit {
    std::pair<std::uint32_t, std::uint32_t> leaf;
    std::uint32_t CpuidRegisters::* reg;
    std::uint32_t bit;
    bool X86Features::* feature;
  };
  const FeatureBit cases[] = {
      {{1, 0}, &CpuidRegisters::ecx, fma, &X86Features::fma},
      {{1, 0}, &CpuidRegisters::ecx, f16c, &X86Features::f16c},
      {{7, 0}, &CpuidRegisters::ebx, avx2, &X86Features::avx2},
      {{7, 0}, &CpuidRegisters::ebx, avx512dq, &X86Features::avx512dq},
      {{7, 0}, &CpuidRegisters::ebx, avx512bw, &X86Features::avx512bw},
      {{7, 0}, &CpuidRegisters::ebx, avx512vl, &X86Features::avx512vl},
      {{7, 0}, &CpuidRegisters::ecx, vbmi, &X86Features::avx512vbmi},
      {{7, 0}, &CpuidRegisters::ecx, vbmi2, &X86Features::avx512vbmi2},
      {{7, 0}, &CpuidRegisters::ecx, vnni, &X86Features::avx512vnni},
      {{7, 1}, &CpuidRegisters::eax, avxvnni, &X86Features::avxvnni},
  };
  for (const FeatureBit& c : cases) {
    MadeUpProcessor processor = complete();
    processor.leaves[c.leaf].*c.reg &= ~c.bit;
    X86Features expected = everything;
    expected.*c.feature = false;
    EXPECT_EQ(features_of(processor), expected) << "leaf " << c.leaf.first << "." << c.leaf.second << " bit " << c.bit;
  }
}

TEST(Cpuid, WithoutAvx512FoundationThereIsNoPartOfAvx512) {
  MadeUpProcessor processor = complete();
  processor.leaves[{7, 0}].ebx &= ~avx512f;
  EXPECT_EQ(features_of(processor), without_avx512(everything));
}

TEST(Cpuid, AnOperatingSystemWithoutXsaveAllowsNothingAndXcr0IsNotRead) {
  MadeUpProcessor processor = complete();
  processor.leaves[{1, 0}].ecx &= ~osxsave;
  EXPECT_EQ(features_of(processor), X86Features{});
  EXPECT_FALSE(processor.xcr0_was_read) << "XGETBV traps there";
}

TEST(Cpuid, WithoutAvxNothingThatNeedsItsRegistersIsReported) {
  MadeUpProcessor processor = complete();
  processor.leaves[{1, 0}].ecx &= ~avx;
  EXPECT_EQ(features_of(processor), X86Features{});
}

TEST(Cpuid, AnOperatingSystemThatSavesNoYmmRegistersAllowsNothing) {
  for (const std::uint64_t xcr0 : {0x00U, 0x01U, 0x03U, 0x05U, 0xe1U, 0xe3U, 0xe5U}) {
    MadeUpProcessor processor = complete();
    processor.xcr0 = xcr0;
    EXPECT_EQ(features_of(processor), X86Features{}) << "XCR0 " << xcr0;
  }
}

TEST(Cpuid, Avx512NeedsEachOfItsThreeStatesSaved) {
  for (const std::uint64_t missing : {std::uint64_t{0x20}, std::uint64_t{0x40}, std::uint64_t{0x80}, std::uint64_t{0xe0}}) {
    MadeUpProcessor processor = complete();
    processor.xcr0 = zmm_saved & ~missing;
    EXPECT_EQ(features_of(processor), without_avx512(everything)) << "without the states " << missing;
  }
  MadeUpProcessor processor = complete();
  processor.xcr0 = ymm_saved;
  EXPECT_EQ(features_of(processor), without_avx512(everything));
}

TEST(Cpuid, LeavesBeyondTheLargestAreNotBelieved) {
  MadeUpProcessor processor = complete();
  processor.leaves[{0, 0}].eax = 0;
  EXPECT_EQ(features_of(processor), X86Features{});
  for (const std::uint32_t largest : {1U, 6U}) {
    processor.leaves[{0, 0}].eax = largest;
    EXPECT_EQ(features_of(processor), (X86Features{.fma = true, .f16c = true})) << "largest leaf " << largest;
  }
}

TEST(Cpuid, ASubleafBeyondTheLargestIsNotBelieved) {
  MadeUpProcessor processor = complete();
  processor.leaves[{7, 0}].eax = 0;
  X86Features expected = everything;
  expected.avxvnni = false;
  EXPECT_EQ(features_of(processor), expected);
}

TEST(Cpuid, Zen3AndZen4AreAmdsFamily19h) {
  constexpr std::uint32_t auth = 0x68747541, genu = 0x756e6547;
  struct KnownSignature {
    std::uint32_t vendor, signature;
    bool expected;
  };
  for (const KnownSignature& c :
       {KnownSignature{auth, 0x00a20f12, true}, KnownSignature{auth, 0x00a10f11, true}, KnownSignature{auth, 0x00b40f40, false},
        KnownSignature{auth, 0x00830f10, false}, KnownSignature{genu, 0x00a20f12, false}}) {
    MadeUpProcessor processor = {.leaves = {{{0, 0}, {.eax = 7, .ebx = c.vendor}}, {{1, 0}, {.eax = c.signature}}}};
    asked = &processor;
    EXPECT_EQ(find_zen3_or_zen4(made_up), c.expected) << c.vendor << " " << c.signature;
  }
}

#if defined(__x86_64__)
/// The kernel reads the same instructions, and shows what it lets programs use.
TEST(Cpuid, ThisProcessorHasWhatTheKernelShows) {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line) && !line.starts_with("flags")) {
  }
  if (line.empty()) {
    GTEST_SKIP() << "/proc/cpuinfo shows no flags";
  }
  std::istringstream words(line);
  const std::vector<std::string> flags(std::istream_iterator<std::string>(words), {});
  const auto shown = [&](const char* flag) { return std::find(flags.begin(), flags.end(), flag) != flags.end(); };
  const X86Features& has = x86_features();
  EXPECT_EQ(has.fma, shown("fma"));
  EXPECT_EQ(has.f16c, shown("f16c"));
  EXPECT_EQ(has.avx2, shown("avx2"));
  EXPECT_EQ(has.avx512f, shown("avx512f"));
  EXPECT_EQ(has.avx512bw, shown("avx512bw"));
  EXPECT_EQ(has.avx512dq, shown("avx512dq"));
  EXPECT_EQ(has.avx512vl, shown("avx512vl"));
  EXPECT_EQ(has.avx512vbmi, shown("avx512vbmi"));
  EXPECT_EQ(has.avx512vbmi2, shown("avx512_vbmi2"));
  EXPECT_EQ(has.avx512vnni, shown("avx512_vnni"));
  // Kernels before Linux 5.12 do not know AVX-VNNI, so they do not show it.
  EXPECT_TRUE(has.avxvnni || !shown("avx_vnni"));
}
#endif

}  // namespace
}  // namespace gqmm::cpu
