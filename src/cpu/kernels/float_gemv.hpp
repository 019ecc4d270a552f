// The float GEMV: the float path for few rows of x. It dequantizes the weights of a strip in registers and multiplies them at
// once, without a panel in memory.
//
//     c[r][n] = c[r][n] + Σ_{k in block} x[r][k] · ŵ[k][n]
//
// Blocks of k ascend, as they do for float_gemm_tile, and the results have the same bits.
//
// Unpacking mxfp8 uses other execution ports than fma. So for 16 rows (AVX-512) unpacking costs almost nothing.
#pragma once

#include "assertion.hpp"
#include "cpu/kernels/float_path.hpp"
#include "cpu/kernels/prefetch.hpp"

namespace gqmm::cpu {
namespace {

/// Computes c = x · ŵ, or c += x · ŵ if `add` is true. The source yields vectors of ŵ in ascending k, Source::codes at a time:
/// next(sink) calls sink.operator()<i>(ŵ) for each i < codes, where i counts k from the start of this call. Before each block of
/// float_block k, source.begin_block(k0) is called.
template <class V, int rows, bool add, class Source>
void multiply_source(Source& source, const FloatGemvArguments& a) {
  GQMM_ASSERT(a.k >= 1 && a.k % Source::codes == 0);
  GQMM_ASSERT(rows == 1 || a.c_stride >= lanes);
  using f32 = typename V::f32;
  const float* x = a.x;
  for (std::int64_t k0 = 0; k0 < a.k; k0 += float_block) {
    source.begin_block(k0);
    f32 sum[rows];
    for (int r = 0; r < rows; ++r) {
      sum[r] = V::broadcast(0.0F);
    }
    const std::int64_t end = std::min(a.k, k0 + float_block);
#pragma GCC unroll 1
    for (std::int64_t k = k0; k < end; k += Source::codes) {
      source.next([&]<int i>(f32 w) __attribute__((always_inline)) {
        for (int r = 0; r < rows; ++r) {
          sum[r] = V::fma(V::broadcast(x[i * rows + r]), w, sum[r]);
        }
      });
      x += Source::codes * rows;
    }
    for (int r = 0; r < rows; ++r) {
      float* c = a.c + r * a.c_stride;
      V::store(c, V::add(add || k0 > 0 ? V::load(c) : V::broadcast(0.0F), sum[r]));
    }
  }
}

/// A source of ŵ for 16 outputs of weights with rows along n.
template <class V, class F>
class CodesAlongNSource {
 public:
  static constexpr int codes = 1;
  explicit CodesAlongNSource(const CodesAlongN& rows) : rows_(rows) {}
  void begin_block(std::int64_t) {}
  template <class Sink>
  [[gnu::always_inline]] void next(Sink sink) {
    sink.template operator()<0>(dequantize_one_k<V, F>(rows_));
    rows_.next();
  }

 private:
  CodesAlongN rows_;
};

template <class V, class F, int rows>
void float_gemv(const StripStream& stream, const FloatGemvArguments& a) {
  GQMM_ASSERT(a.k * F::bits == stream.strip.words * 32);
  with_float_strip<V, F>(stream, 0, stream.strip.words, [&](auto& strip) { multiply_source<V, rows, false>(strip, a); });
}

template <class V, class F, int rows>
void float_gemv_along_n(const CodesAlongN& codes_along_n, const FloatGemvArguments& a) {
  CodesAlongNSource<V, F> source(codes_along_n);
  multiply_source<V, rows, true>(source, a);
}

}  // namespace
}  // namespace gqmm::cpu
