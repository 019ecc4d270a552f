// Former names of instruction sets. The library and the CMake option accept them. The library reports today's names; an error
// also quotes what its caller wrote.
#pragma once

#include <string_view>

namespace gqmm::cpu {

struct InstructionSetAlias {
  std::string_view alias;
  std::string_view name;
};

/// The only list of the aliases. src/CMakeLists.txt reads these lines for GQMM_INSTRUCTION_SETS, so each alias must stand on its
/// own line.
inline constexpr InstructionSetAlias instruction_set_aliases[] = {
    {"avx512", "avx512vnni"},
    {"neon", "neon-dotprod"},
    {"i8mm", "neon-i8mm"},
};

/// Returns the name that an alias stands for, and any other text unchanged.
constexpr std::string_view current_name(std::string_view name) {
  for (const InstructionSetAlias& each : instruction_set_aliases) {
    if (each.alias == name) {
      return each.name;
    }
  }
  return name;
}

}  // namespace gqmm::cpu
