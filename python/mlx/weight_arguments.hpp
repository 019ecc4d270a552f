// The weights of a call as Python gives them: arrays and settings, or gqmm.QuantizedWeights.
#pragma once

#include "functions.hpp"
#include "pack_cache.hpp"

#include <gqmm/types.hpp>

#include <mlx/array.h>
#include <nanobind/nanobind.h>

#include <optional>
#include <string>

namespace mx = ::mlx::core;
namespace nb = nanobind;

namespace gqmm::mlx {

using OptionalArray = std::optional<mx::array>;

/// The settings of install(). The GIL guards them.
struct Defaults {
  Precision precision = Precision::standard;
  bool pack = false;
};
/// The one object of its kind.
Defaults& defaults();
/// The one cache. It is never destroyed, because Python ends before static objects are destroyed.
PackCache& pack_cache();

/// The precision with this name, or the default.
Precision precision_of(const std::optional<std::string>& name, const char* op);

/// The arguments of a call that describe its weights, as Python gave them.
struct GivenWeights {
  nb::object w;
  OptionalArray scales;
  OptionalArray biases;
  OptionalArray global_scale;
  std::optional<bool> transpose;
  std::optional<int> group_size;
  std::optional<int> bits;
  std::optional<std::string> mode;
};

/// Whether the object is of the class gqmm.QuantizedWeights.
bool is_quantized_weights(nb::handle w);
/// The name of the object's class, for errors.
std::string class_of(nb::handle object);
/// The array of MLX that the object is, or null.
mx::array* array_in(nb::handle object);
/// The same for an argument that may be None. Throws TypeError for another object; the error calls the argument `name`.
OptionalArray optional_array_in(const char* op, const char* name, nb::handle object);

/// Returns the arguments in MLX's types. The caller sets the indices and the stream. Throws TypeError or std::invalid_argument
/// for arguments of a wrong kind, and for settings that contradict those of gqmm.QuantizedWeights.
QuantizedArguments arguments_of(const char* op, const GivenWeights& given, const std::optional<std::string>& precision);

}  // namespace gqmm::mlx
