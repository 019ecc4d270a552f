#include "x86_vectors.hpp"

namespace gqmm::bench {
namespace {

struct Avx512Vnni : Zmm {
  static Int8 dot(Int8 sum_s32, Int8 w_u8, Int8 x_s8) { return _mm512_dpbusd_epi32(sum_s32, w_u8, x_s8); }
};

}  // namespace

const ProbeLoops avx512vnni_loops = loops_of<Avx512Vnni>("vpdpbusd zmm", "vfmadd zmm");

}  // namespace gqmm::bench
