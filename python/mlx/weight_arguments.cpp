#include "weight_arguments.hpp"

#include "../src/beside_weights.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <utility>
#include <vector>

namespace gqmm::mlx {
namespace {

[[noreturn]] void fail_array(const char* op, const char* name, nb::handle got) {
  throw nb::type_error((std::string("[") + op + "] " + name + ": expected an mlx.core.array, got " + class_of(got)).c_str());
}

/// Returns the arguments that gqmm.QuantizedWeights stand for. Throws std::invalid_argument if the call gives arrays or other
/// settings beside them. The class belongs to another extension, so its attributes are read as Python reads them.
GivenWeights arguments_of_weights(const char* op, const GivenWeights& given) {
  const auto array_of = [&](const char* name, const OptionalArray& beside) -> OptionalArray {
    const nb::object own = given.w.attr(name);
    if (beside) {
      python::fail_array_beside_quantized(op, name, nb::cast<std::string>(nb::repr(given.w)), !own.is_none());
    }
    return optional_array_in(op, name, own);
  };
  GivenWeights own = {.w = given.w.attr("w"),
                      .scales = array_of("scales", given.scales),
                      .biases = array_of("biases", given.biases),
                      .global_scale = array_of("global_scale", given.global_scale),
                      .transpose = nb::cast<bool>(given.w.attr("transpose")),
                      .group_size = nb::cast<int>(given.w.attr("group_size")),
                      .bits = nb::cast<int>(given.w.attr("bits")),
                      .mode = nb::cast<std::string>(given.w.attr("mode"))};
  const auto settings_of = [op](const GivenWeights& a) {
    return python::GivenSettings{.mode = a.mode ? std::optional(mode_from_name(*a.mode, op)) : std::nullopt,
                                 .bits = a.bits,
                                 .group_size = a.group_size,
                                 .transpose = a.transpose};
  };
  python::check_settings_beside_quantized(op, settings_of(given), settings_of(own));
  return own;
}

}  // namespace

Defaults& defaults() {
  static Defaults defaults;
  return defaults;
}

PackCache& pack_cache() {
  static auto* const cache = new PackCache;
  return *cache;
}

Precision precision_of(const std::optional<std::string>& name, const char* op) {
  return name ? precision_from_name(*name, op) : defaults().precision;
}

bool is_quantized_weights(nb::handle w) { return w.type().is(nb::module_::import_("gqmm._gqmm").attr("QuantizedWeights")); }

std::string class_of(nb::handle object) { return nb::cast<std::string>(nb::str(object.type().attr("__name__"))); }

mx::array* array_in(nb::handle object) {
  mx::array* a = nullptr;
  return nb::try_cast(object, a) ? a : nullptr;
}

OptionalArray optional_array_in(const char* op, const char* name, nb::handle object) {
  if (object.is_none()) {
    return std::nullopt;
  }
  const mx::array* const a = array_in(object);
  if (a == nullptr) {
    fail_array(op, name, object);
  }
  return *a;
}

QuantizedArguments arguments_of(const char* op, const GivenWeights& given, const std::optional<std::string>& precision) {
  const GivenWeights own = is_quantized_weights(given.w) ? arguments_of_weights(op, given) : given;
  const mx::array* const w_array = array_in(own.w);
  if (w_array == nullptr) {
    fail_array(op, "w", own.w);
  }
  if (!own.scales) {
    throw std::invalid_argument(std::string("[") + op + "] scales is missing; pass the second array that quantize returns");
  }
  QuantizedArguments arguments = {.w = *w_array,
                                  .scales = *own.scales,
                                  .biases = own.biases,
                                  .transpose = own.transpose.value_or(true),
                                  .group_size = own.group_size,
                                  .bits = own.bits,
                                  .mode = own.mode.value_or("affine"),
                                  .global_scale = own.global_scale,
                                  .precision = precision_of(precision, op)};
  if (defaults().pack) {
    arguments.find_packed_copy = [w = own.w](std::vector<mx::array> weights, const WeightSettings& settings) {
      return pack_cache().find(w, std::move(weights), settings);
    };
  }
  return arguments;
}

}  // namespace gqmm::mlx
