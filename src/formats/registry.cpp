#include "formats/registry.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <vector>

namespace gqmm {
namespace {

template <class F>
constexpr Format make_format() {
  return {F::mode, F::bits, F::group_sizes, F::default_group_size, F::scale_encoding, F::has_biases, F::value, F::integer};
}

template <class... F>
constexpr std::array<Format, sizeof...(F)> make_formats(TypeList<F...>) {
  return {make_format<F>()...};
}

constexpr auto all_formats = make_formats(AllFormats{});

constexpr std::array<std::string_view, 4> mode_names = {"affine", "mxfp4", "mxfp8", "nvfp4"};
constexpr std::array<std::string_view, 3> precision_names = {"default", "fast", "float32"};

template <class Names>
std::size_t position_of(const Names& names, std::string_view name, std::string_view op, std::string_view what) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    throw std::invalid_argument(
        fmt::format("[{}] unknown {} \"{}\"; use one of \"{}\"", op, what, name, fmt::join(names, "\", \"")));
  }
  return static_cast<std::size_t>(found - names.begin());
}

}  // namespace

std::span<const Format> formats() { return all_formats; }

const Format* find_format(Mode mode, int bits) {
  const auto* found =
      std::find_if(all_formats.begin(), all_formats.end(), [&](const Format& f) { return f.mode == mode && f.bits == bits; });
  return found == all_formats.end() ? nullptr : found;
}

std::string describe(const Format& format) {
  if (format.mode == Mode::affine) {
    return fmt::format("affine {}-bit", format.bits);
  }
  return std::string(name_of(format.mode));
}

QuantizationSettings resolve_settings(std::string_view op, Mode mode, const int* bits, const int* group_size) {
  const auto of_mode = [mode](const Format& format) { return format.mode == mode; };
  const int default_bits = mode == Mode::affine ? 4 : std::find_if(formats().begin(), formats().end(), of_mode)->bits;
  const int wanted_bits = bits != nullptr ? *bits : default_bits;
  const Format* format = find_format(mode, wanted_bits);
  if (format == nullptr) {
    std::vector<int> bits_of_mode;
    for (const Format& each : formats()) {
      if (of_mode(each)) {
        bits_of_mode.push_back(each.bits);
      }
    }
    throw std::invalid_argument(fmt::format("[{}] bits = {} is not available in mode \"{}\"; use one of {}", op, wanted_bits,
                                            name_of(mode), fmt::join(bits_of_mode, ", ")));
  }
  const int wanted_group = group_size != nullptr ? *group_size : format->default_group_size;
  if (std::find(format->group_sizes.begin(), format->group_sizes.end(), wanted_group) == format->group_sizes.end()) {
    throw std::invalid_argument(fmt::format("[{}] group_size = {} is not available in mode \"{}\"; use one of {}", op,
                                            wanted_group, name_of(mode), fmt::join(format->group_sizes, ", ")));
  }
  return {format, wanted_group};
}

std::string_view name_of(Mode mode) noexcept { return mode_names[static_cast<std::size_t>(mode)]; }

Mode mode_from_name(std::string_view name, std::string_view op) {
  return static_cast<Mode>(position_of(mode_names, name, op, "mode"));
}

std::string_view name_of(Precision precision) noexcept { return precision_names[static_cast<std::size_t>(precision)]; }

Precision precision_from_name(std::string_view name, std::string_view op) {
  return static_cast<Precision>(position_of(precision_names, name, op, "precision"));
}

}  // namespace gqmm
