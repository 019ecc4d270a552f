// Results have the bits that the version of the contract promises: those of the file with its number in the folder contract.
#include "conformance/support/check.hpp"
#include "conformance/support/digests.hpp"
#include "conformance/support/guarded_memory.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::conformance {
namespace {

std::string file_of_the_contract() { return fmt::format("{}/{}.txt", GQMM_CONTRACT_FOLDER, numerics_contract()); }

const std::map<std::string, Digest>& promised_digests() {
  static const std::map<std::string, Digest> digests = [] {
    std::map<std::string, Digest> read;
    std::ifstream file(file_of_the_contract());
    std::string name;
    Digest digest;
    while (file >> name >> std::hex >> digest.operands >> digest.result) {
      read[name] = digest;
    }
    return read;
  }();
  return digests;
}

/// The least capable instruction set of this machine, and the one in use. Other suites compare all of them with each other. On
/// emulated processors the former is the same slow code, so the one with every set runs it for all.
std::vector<std::string> sets_to_run() {
  std::vector<std::string> sets = {std::string(active_instruction_set())};
  const char* emulated = std::getenv("QEMU_CPU");
  if (const std::string least = supported_instruction_sets().front();
      least != sets.front() && (emulated == nullptr || std::string_view(emulated) == "max")) {
    sets.push_back(least);
  }
  return sets;
}

class Contract : public ::testing::TestWithParam<DigestCase> {};

TEST_P(Contract, HasTheBitsOfItsVersion) {
  const auto promised = promised_digests().find(GetParam().name);
  ASSERT_NE(promised, promised_digests().end())
      << "not in " << file_of_the_contract() << "; gqmm_digests prints the line of a new case";
  const RestoreInstructionSet restore;
  const std::vector<std::string> sets = sets_to_run();
  Hash operands;
  std::vector<Hash> results(sets.size());
  for (int number = 0; number < GetParam().problems; ++number) {
    const DigestProblem problem = GetParam().problem(number);
    operands.add(problem.operands);
    for (std::size_t i = 0; i < sets.size(); ++i) {
      const std::string note = fmt::format("on {}: {}", sets[i], problem.description);
      set_crash_note(note.c_str());
      set_instruction_set(sets[i]);
      results[i].add(problem.result());
    }
  }
  ASSERT_EQ(operands.value(), promised->second.operands) << "the operands differ already, so this says nothing of the results";
  for (std::size_t i = 0; i < sets.size(); ++i) {
    EXPECT_EQ(results[i].value(), promised->second.result)
        << "on " << sets[i] << " bits have changed since version " << numerics_contract() << " of the contract. If that is "
        << "intended, raise numerics_contract() in src/api/system.cpp, write the file of the new version with gqmm_digests, and "
        << "say in CHANGELOG.md whose bits they are. If not, `gqmm_digests " << GetParam().name << "` of both builds shows the "
        << "first problem that differs.";
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Contract, ::testing::ValuesIn(digest_cases()), [](const auto& each) { return each.param.name; });

TEST(ContractFile, HasNoOtherLines) {
  std::map<std::string, Digest> left = promised_digests();
  for (const DigestCase& each : digest_cases()) {
    left.erase(each.name);
  }
  for (const auto& [name, digest] : left) {
    ADD_FAILURE() << file_of_the_contract() << " has a line " << name << ", and there is no such case";
  }
}

}  // namespace
}  // namespace gqmm::conformance
