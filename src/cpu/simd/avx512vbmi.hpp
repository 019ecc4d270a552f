// The vocabulary for AVX-512 with VNNI, VBMI and VBMI2 (Ice Lake, Zen 4 and later). It picks codes out of words in one
// instruction.
#pragma once

#include "cpu/simd/avx512vnni.hpp"

namespace gqmm::cpu {
namespace {

struct Avx512Vbmi : Avx512Vnni {
  static constexpr bool picks_bits = true;

  template <int first, int pitch>
  static i32 pick_bits(i32 a) {
    // vpmultishiftqb takes each byte from any place in 64 bits, which are a pair of lanes. Places beyond the end wrap around.
    constexpr std::uint64_t control = [] {
      std::uint64_t places = 0;
      for (int byte = 0; byte < 8; ++byte) {
        const int place = byte / 4 * 32 + first + byte % 4 * pitch;
        places |= static_cast<std::uint64_t>(place & 63) << (8 * byte);
      }
      return places;
    }();
    return _mm512_multishift_epi64_epi8(_mm512_set1_epi64(static_cast<long long>(control)), a);
  }
  template <int N>
  static i32 funnel_right(i32 low, i32 high) {
    return _mm512_shrdi_epi32(low, high, N);
  }
};

static_assert(Vocabulary<Avx512Vbmi>);

}  // namespace
}  // namespace gqmm::cpu
