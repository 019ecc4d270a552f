#include "probes/probes.hpp"

#include "cpu/instruction_set_names.hpp"

#include <gtest/gtest.h>

#include <span>
#include <stdexcept>
#include <vector>

namespace gqmm::bench {
namespace {

TEST(Probes, EverySupportedSetRunsOnThisMachine) {
  int supported = 0;
  for (const ProbeSet& set : probe_sets()) {
    if (!set.supported) {
      continue;
    }
    ++supported;
    Probes probes(2, set.name, std::size_t{1} << 20, Pages::standard);
    EXPECT_EQ(probes.set(), set.name);
    for (const Limit limit : {Limit::int8_dot, Limit::float32_fma, Limit::dram_read}) {
      EXPECT_GT(probes.measure(limit), 0) << set.name << ", " << name_of(limit);
      EXPECT_FALSE(probes.description(limit).empty());
    }
  }
  EXPECT_GE(supported, 1);
}

// A name that is an alias would mean one thing here and another for --isa: "avx512" once had no VNNI here.
TEST(Probes, SetsHaveTheNamesOfInstructionSets) {
  for (const ProbeSet& set : probe_sets()) {
    EXPECT_EQ(cpu::current_name(set.name), set.name);
  }
#if defined(__x86_64__)
  const std::vector<ProbeSet> sets = probe_sets();
  ASSERT_EQ(sets.size(), 5U);
  EXPECT_EQ(sets[0].name, "avx512vnni");
  EXPECT_EQ(sets[1].name, "avx512bw");
  EXPECT_EQ(sets[2].name, "avxvnni");
  EXPECT_EQ(sets[3].name, "avx2");
#endif
  EXPECT_THROW(Probes(1, "avx512", std::size_t{1} << 20, Pages::standard), std::invalid_argument);
}

TEST(Probes, AnUnknownSetNamesThoseThatTheMachineHas) {
  try {
    Probes probes(1, "altivec", std::size_t{1} << 20, Pages::standard);
    FAIL() << "no error";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("[bench] probe set 'altivec'"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("portable"), std::string::npos) << error.what();
  }
}

TEST(Probes, ReadLoopsReadNearlyAllOfTheirMemoryAndNothingBeyond) {
  for (const ProbeSet& set : probe_sets()) {
    if (!set.supported) {
      continue;
    }
    for (const std::size_t bytes : {std::size_t{8192}, std::size_t{65536} + 64, std::size_t{1} << 20}) {
      const PageMemory memory(bytes, Pages::standard);
      for (const ReadVariant& variant : std::span(set.loops->read_variants, read_variant_count)) {
        const std::size_t read = variant.run(memory.data(), bytes);
        EXPECT_LE(read, bytes) << set.name << ", " << variant.streams << " streams";
        EXPECT_GT(read + 2 * 64 * static_cast<std::size_t>(variant.streams), bytes)
            << set.name << ", " << variant.streams << " streams";
      }
    }
  }
}

}  // namespace
}  // namespace gqmm::bench
