// Uses gqmm from a project that compiles with -ffast-math: infinity goes through the library as if there were no such flag. The
// results are looked at as bits, because this file itself is compiled with the flag.
#include <gqmm/gqmm.hpp>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace {

constexpr std::int64_t N = 16;
constexpr std::int64_t K = 64;

/// Whether the exponent says infinity or NaN.
bool is_not_finite(const std::byte* value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, value, sizeof bits);
  return (bits & 0x7f800000U) == 0x7f800000U;
}

}  // namespace

int main() {
  std::vector<float> weights(N * K);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = static_cast<float>(i % 15 + 1);
  }
  const auto quantized = gqmm::quantize(gqmm::array::borrow(weights.data(), {N, K}, gqmm::Dtype::float32), {});
  std::vector<float> x(2 * K, 1.0F);
  const std::uint32_t infinity = 0x7f800000U;
  std::memcpy(&x[K], &infinity, sizeof infinity);
  const gqmm::array y = gqmm::quantized_matmul(gqmm::array::borrow(x.data(), {2, K}, gqmm::Dtype::float32), quantized);
  for (std::int64_t i = 0; i < 2 * N; ++i) {
    const bool expected = i >= N;
    if (is_not_finite(y.bytes() + i * 4) != expected) {
      std::printf("output (%lld, %lld) should%s be infinite\n", static_cast<long long>(i / N), static_cast<long long>(i % N),
                  expected ? "" : " not");
      return 1;
    }
  }
  std::printf("gqmm computes as it should\n");
  return 0;
}
