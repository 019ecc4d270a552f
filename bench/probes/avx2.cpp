#include "x86_vectors.hpp"

namespace gqmm::bench {
namespace {

struct Avx2 : Ymm {
  static Int8 dot(Int8 sum_s32, Int8 w_u8, Int8 x_s8) {
    const Int8 ones = _mm256_set1_epi16(1);
    return _mm256_add_epi32(sum_s32, _mm256_madd_epi16(_mm256_maddubs_epi16(w_u8, x_s8), ones));
  }
};

}  // namespace

const ProbeLoops avx2_loops = loops_of<Avx2>("vpmaddubsw, vpmaddwd and vpaddd ymm", "vfmadd ymm");

}  // namespace gqmm::bench
