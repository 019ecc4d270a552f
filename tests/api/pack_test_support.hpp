// Packed weights of every format, for the tests of pack, unpack and their files.
#pragma once

#include "api_test_support.hpp"

#include "plan/packed.hpp"

#include <string>
#include <vector>

namespace gqmm::test {

using namespace detail;

/// A format with one of its group sizes, either way round.
struct PackCase {
  const Format* format;
  int group_size;
  bool transpose;
};

inline std::vector<PackCase> all_pack_cases() {
  std::vector<PackCase> cases;
  for (const Format& format : formats()) {
    for (const int group_size : format.group_sizes) {
      for (const bool transpose : {true, false}) {
        cases.push_back({&format, group_size, transpose});
      }
    }
  }
  return cases;
}

inline std::string name_of_pack_case(const testing::TestParamInfo<PackCase>& info) {
  return std::string(gqmm::name_of(info.param.format->mode)) + "_" + std::to_string(info.param.format->bits) + "bits_group" +
         std::to_string(info.param.group_size) + (info.param.transpose ? "_transpose" : "");
}

}  // namespace gqmm::test
