#include "x86_vectors.hpp"

namespace gqmm::bench {
namespace {

struct Avx512Bw : Zmm {
  static Int8 dot(Int8 sum_s32, Int8 w_u8, Int8 x_s8) {
    const Int8 ones = _mm512_set1_epi16(1);
    return _mm512_add_epi32(sum_s32, _mm512_madd_epi16(_mm512_maddubs_epi16(w_u8, x_s8), ones));
  }
};

}  // namespace

const ProbeLoops avx512bw_loops = loops_of<Avx512Bw>("vpmaddubsw, vpmaddwd and vpaddd zmm", "vfmadd zmm");

}  // namespace gqmm::bench
