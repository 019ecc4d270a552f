// The float path for few rows: a strip's weights are dequantized in registers and multiplied at once, without a panel.
//
//     c[r][n] = c[r][n] + Σ_{k in block} x[r][k] · ŵ[k][n]        blocks ascending, as float_gemm_tile has it, with the same bits
//
// Unpacking mxfp8 runs on other pipes than fma does, so that with 16 rows (AVX-512) it costs almost nothing.
#pragma once

#include "cpu/kernels/float_path.hpp"
#include "cpu/kernels/prefetch.hpp"

namespace gqmm::cpu {
namespace {

/// c = x · ŵ, or c += x · ŵ. A source gives, in ascending k, `codes` vectors of ŵ at a time: next(sink) calls
/// sink.operator()<i>(ŵ) for each i < codes.
template <class V, int rows, bool add, class Source>
void multiply_source(Source& source, const FloatRows& a) {
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

/// 16 outputs of rows of codes packed along N.
template <class V, class F>
class CodeRowsSource {
 public:
  static constexpr int codes = 1;
  explicit CodeRowsSource(const CodeRows& rows) : rows_(rows) {}
  void begin_block(std::int64_t) {}
  template <class Sink>
  [[gnu::always_inline]] void next(Sink sink) {
    sink.template operator()<0>(dequantize_row<V, F>(rows_));
    rows_.next();
  }

 private:
  CodeRows rows_;
};

template <class V, class F, int rows>
void float_gemv(const StripStream& stream, const FloatRows& a) {
  with_e4m3_strip<V, F>(stream, 0, stream.strip.words, [&](auto& strip) { multiply_source<V, rows, false>(strip, a); });
}

template <class V, class F, int rows>
void float_gemv_along_n(const CodeRows& code_rows, const FloatRows& a) {
  CodeRowsSource<V, F> source(code_rows);
  multiply_source<V, rows, true>(source, a);
}

}  // namespace
}  // namespace gqmm::cpu
