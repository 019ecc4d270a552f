// The error bounds of the elementary functions (cpu/kernels/elementary_functions.hpp): their largest errors in ulp over all
// float32 arguments. An ulp is 2^−23 of the power of two at or below the exact value, and at least 2^−149.
#pragma once

namespace gqmm::detail {

inline constexpr double exp_ulp = 1.01;   // of exp and of exp_nonpositive
inline constexpr double exp2_ulp = 0.80;  // of exp2_nonpositive from −126 on
inline constexpr double sigmoid_ulp = 2.41;
inline constexpr double softplus_ulp = 2.9;
inline constexpr double tanh_ulp = 2.5;
inline constexpr double normal_cdf_ulp = 6.4;

}  // namespace gqmm::detail
