// The block floating-point formats: mxfp4 and mxfp8 of the OCP Microscaling specification 1.0, and NVIDIA's nvfp4. In all of them
// ŵ = scale · value(code).
//
//     mxfp4   32 codes E2M1 (sign, 2 exponent, 1 mantissa bits) share one E8M0 scale byte, 2^(byte − 127)
//     nvfp4   16 codes E2M1 share one E4M3 scale byte; an optional float32 global scale g multiplies it by g / (448 · 6)
//     mxfp8   32 codes E4M3 share one E8M0 scale byte
#pragma once

#include "formats/format.hpp"

namespace gqmm::detail {

/// 2 · E2M1 + 12 as an unsigned byte, so that ŵ = (scale / 2) · (u − 12).
inline constexpr IntegerForm e2m1_integer_form = {
    .has_table = true,
    .table = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0},
    .offset = 12,
    .unit = 0.5F,
    .max_u = 24,
};

struct Mxfp4 {
  static constexpr Mode mode = Mode::mxfp4;
  static constexpr std::string_view mode_name = "mxfp4";
  static constexpr bool is_default = true;
  static constexpr int bits = 4;
  static constexpr int group_sizes[1] = {32};
  static constexpr int default_group_size = 32;
  static constexpr ScaleEncoding scale_encoding = ScaleEncoding::e8m0;
  static constexpr bool has_biases = false;
  static constexpr bool has_global_scale = false;
  static constexpr std::optional<SmallFloat> float_code = e2m1;
  static constexpr IntegerForm integer = e2m1_integer_form;
};

struct Nvfp4 {
  static constexpr Mode mode = Mode::nvfp4;
  static constexpr std::string_view mode_name = "nvfp4";
  static constexpr bool is_default = true;
  static constexpr int bits = 4;
  static constexpr int group_sizes[1] = {16};
  static constexpr int default_group_size = 16;
  static constexpr ScaleEncoding scale_encoding = ScaleEncoding::e4m3;
  static constexpr bool has_biases = false;
  static constexpr bool has_global_scale = true;
  static constexpr std::optional<SmallFloat> float_code = e2m1;
  static constexpr IntegerForm integer = e2m1_integer_form;
};

struct Mxfp8 {
  static constexpr Mode mode = Mode::mxfp8;
  static constexpr std::string_view mode_name = "mxfp8";
  static constexpr bool is_default = true;
  static constexpr int bits = 8;
  static constexpr int group_sizes[1] = {32};
  static constexpr int default_group_size = 32;
  static constexpr ScaleEncoding scale_encoding = ScaleEncoding::e8m0;
  static constexpr bool has_biases = false;
  static constexpr bool has_global_scale = false;
  static constexpr std::optional<SmallFloat> float_code = e4m3;
  // The values of E4M3 range from 2^-9 to 448. No integer of one byte holds that range, so mxfp8 takes the float path.
  static constexpr IntegerForm integer = {.exists = false};
};

}  // namespace gqmm::detail
