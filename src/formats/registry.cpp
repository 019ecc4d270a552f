#include "formats/registry.hpp"

#include "formats/name_list.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <vector>

namespace gqmm::detail {
namespace {

template <class F>
constexpr Format make_format() {
  static_assert(!F::float_code || F::float_code->bits() == F::bits, "a code is one small float");
  static_assert(F::integer.exists || F::float_code, "a format says how its codes become numbers");
  static_assert(!F::has_global_scale || (F::scale_encoding == ScaleEncoding::e4m3 && F::float_code == e2m1),
                "nvfp4_scale_factor divides a global scale by the largest values of E4M3 and E2M1");
  static_assert(F::has_biases == (F::scale_encoding == ScaleEncoding::floating),
                "biases are floats beside scales that are floats");
  return {.mode = F::mode,
          .mode_name = F::mode_name,
          .is_default = F::is_default,
          .bits = F::bits,
          .group_sizes = F::group_sizes,
          .default_group_size = F::default_group_size,
          .scale_encoding = F::scale_encoding,
          .has_biases = F::has_biases,
          .has_global_scale = F::has_global_scale,
          .float_code = F::float_code,
          .integer = F::integer};
}

template <class... F>
constexpr std::array<Format, sizeof...(F)> make_formats(TypeList<F...>) {
  return {make_format<F>()...};
}

constexpr auto all_formats = make_formats(AllFormats{});

constexpr auto mode_count = static_cast<std::size_t>(
    std::count_if(all_formats.begin(), all_formats.end(), [](const Format& format) { return format.is_default; }));

/// The default format of each mode. The index is the mode.
constexpr std::array<const Format*, mode_count> default_formats = [] {
  std::array<const Format*, mode_count> result = {};
  for (const Format& format : all_formats) {
    if (format.is_default) {
      result.at(static_cast<std::size_t>(format.mode)) = &format;
    }
  }
  return result;
}();
static_assert(std::all_of(all_formats.begin(), all_formats.end(),
                          [](const Format& format) {
                            const auto mode = static_cast<std::size_t>(format.mode);
                            return mode < mode_count && default_formats[mode] != nullptr &&
                                   default_formats[mode]->mode_name == format.mode_name;
                          }),
              "every mode of the enumeration has one default format, and all formats of a mode give it the same name");

constexpr auto all_modes = [] {
  std::array<Mode, mode_count> result = {};
  std::transform(default_formats.begin(), default_formats.end(), result.begin(),
                 [](const Format* format) { return format->mode; });
  return result;
}();
constexpr auto mode_names = [] {
  std::array<std::string_view, mode_count> result = {};
  std::transform(default_formats.begin(), default_formats.end(), result.begin(),
                 [](const Format* format) { return format->mode_name; });
  return result;
}();

}  // namespace

std::span<const Format> formats() { return all_formats; }

const Format* find_format(Mode mode, int bits) {
  const auto* found =
      std::find_if(all_formats.begin(), all_formats.end(), [&](const Format& f) { return f.mode == mode && f.bits == bits; });
  return found == all_formats.end() ? nullptr : found;
}

const Format& default_format(Mode mode) { return *default_formats[static_cast<std::size_t>(mode)]; }

std::vector<int> bits_of(Mode mode) {
  std::vector<int> bits;
  for (const Format& format : all_formats) {
    if (format.mode == mode) {
      bits.push_back(format.bits);
    }
  }
  return bits;
}

std::string describe(const Format& format) {
  const bool has_siblings = std::any_of(all_formats.begin(), all_formats.end(), [&](const Format& other) {
    return other.mode == format.mode && other.bits != format.bits;
  });
  return has_siblings ? fmt::format("{} {}-bit", format.mode_name, format.bits) : std::string(format.mode_name);
}

std::string name_of(const SmallFloat& type) {
  return fmt::format("float{}_e{}m{}{}", type.bits(), type.exponent_bits, type.mantissa_bits,
                     type.special == SpecialCodes::infinities ? "" : "fn");
}

std::string float8_name(ScaleEncoding encoding) {
  switch (encoding) {
    case ScaleEncoding::floating: break;
    case ScaleEncoding::e8m0: return "float8_e8m0fnu";
    case ScaleEncoding::e4m3: return name_of(e4m3);
  }
  return "";
}

QuantizationSettings resolve_settings(std::string_view op, Mode mode, const int* bits, const int* group_size) {
  const int requested_bits = bits != nullptr ? *bits : default_format(mode).bits;
  const Format* format = find_format(mode, requested_bits);
  if (format == nullptr) {
    throw std::invalid_argument(fmt::format("[{}] bits = {} is not available in mode \"{}\"; use one of {}", op, requested_bits,
                                            name_of(mode), fmt::join(bits_of(mode), ", ")));
  }
  const int requested_group_size = group_size != nullptr ? *group_size : format->default_group_size;
  if (std::find(format->group_sizes.begin(), format->group_sizes.end(), requested_group_size) == format->group_sizes.end()) {
    throw std::invalid_argument(fmt::format("[{}] group_size = {} is not available in mode \"{}\"; use one of {}", op,
                                            requested_group_size, name_of(mode), fmt::join(format->group_sizes, ", ")));
  }
  return {format, requested_group_size};
}

}  // namespace gqmm::detail

namespace gqmm {

using namespace detail;

std::span<const Mode> modes() noexcept { return all_modes; }

std::optional<Mode> find_mode(std::string_view name) noexcept {
  const auto* found = std::find(mode_names.begin(), mode_names.end(), name);
  return found == mode_names.end() ? std::nullopt
                                   : std::optional(all_modes[static_cast<std::size_t>(found - mode_names.begin())]);
}

std::string_view name_of(Mode mode) noexcept { return mode_names[static_cast<std::size_t>(mode)]; }

Mode mode_from_name(std::string_view name, std::string_view op) {
  return static_cast<Mode>(position_of(mode_names, name, op, "mode"));
}

}  // namespace gqmm
