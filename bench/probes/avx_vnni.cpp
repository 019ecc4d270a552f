#include "x86_vectors.hpp"

namespace gqmm::bench {
namespace {

struct AvxVnni : Ymm {
  static Int8 dot(Int8 sum_s32, Int8 w_u8, Int8 x_s8) { return _mm256_dpbusd_avx_epi32(sum_s32, w_u8, x_s8); }
};

}  // namespace

const ProbeLoops avxvnni_loops = loops_of<AvxVnni>("vpdpbusd ymm", "vfmadd ymm");

}  // namespace gqmm::bench
