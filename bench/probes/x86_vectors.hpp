// The probe loops of x86. `Isa` is a class with the few operations in which the instruction sets differ:
//   Int8, Float      vector types
//   dot(sum, u, s)   sum + dot products of 4 unsigned × 4 signed bytes per 32-bit lane
//   fma(a, b, c)     a · b + c
//   keep(v)          makes the compiler load v into a register again in each round
#pragma once

#include "kernels.hpp"

#include <immintrin.h>

namespace gqmm::bench {
namespace {

template <class Isa>
void int8_dot_loop(std::int64_t rounds) {
  auto codes_u8 = Isa::broadcast(opaque(0x03030303));
  const auto x_s8 = Isa::broadcast(opaque(0x02020202));
  typename Isa::Int8 sums[chains] = {};
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (auto& sum : sums) {
      sum = Isa::dot(sum, codes_u8, x_s8);
      Isa::keep(sum);
      Isa::keep(codes_u8);  // otherwise the compiler would move the products, which never change, out of the loop
    }
  }
}

template <class Isa>
void float32_fma_loop(std::int64_t rounds) {
  const typename Isa::Float factor = Isa::broadcast_float(opaque(1.0F));
  typename Isa::Float sums[chains] = {};
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (auto& sum : sums) {
      sum = Isa::fma(sum, factor, factor);
      Isa::keep(sum);
    }
  }
}

struct Ymm {
  using Int8 = __m256i;
  using Float = __m256;
  static constexpr int bytes = 32;
  static Int8 broadcast(int value) { return _mm256_set1_epi32(value); }
  static Float broadcast_float(float value) { return _mm256_set1_ps(value); }
  static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static void keep(Int8& value) { asm volatile("" : "+x"(value)); }
  static void keep(Float& value) { asm volatile("" : "+x"(value)); }
};

#if defined(__AVX512F__)
struct Zmm {
  using Int8 = __m512i;
  using Float = __m512;
  static constexpr int bytes = 64;
  static Int8 broadcast(int value) { return _mm512_set1_epi32(value); }
  static Float broadcast_float(float value) { return _mm512_set1_ps(value); }
  static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static void keep(Int8& value) { asm volatile("" : "+v"(value)); }
  static void keep(Float& value) { asm volatile("" : "+v"(value)); }
};
#endif

template <class Isa>
constexpr ProbeLoops loops_of(const char* int8_dot_instruction, const char* float32_fma_instruction) {
  return {int8_dot_instruction,          2.0 * Isa::bytes * chains, int8_dot_loop<Isa>,          float32_fma_instruction,
          2.0 * Isa::bytes / 4 * chains, float32_fma_loop<Isa>,     read_variants_of<Isa::bytes>};
}

}  // namespace
}  // namespace gqmm::bench
