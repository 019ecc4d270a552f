// The arguments of the operators that are not arrays, checked by kind (TypeError) and converted; their values are the API's to
// judge.
#pragma once

#include "arrays.hpp"

#include <gqmm/stream.hpp>
#include <gqmm/types.hpp>

#include <optional>

namespace gqmm::python {

bool parse_bool(ArgumentName name, nb::handle value);
int parse_int(ArgumentName name, nb::handle value);
/// None gives nothing, here and below.
std::optional<bool> parse_optional_bool(ArgumentName name, nb::handle value);
std::optional<int> parse_optional_int(ArgumentName name, nb::handle value);
std::optional<Mode> parse_optional_mode(const char* op, nb::handle value);
Precision parse_precision(const char* op, nb::handle value);
/// An element type of any of the libraries, or its name.
std::optional<Dtype> parse_optional_dtype(ArgumentName name, nb::handle value);
/// None is the default stream; what is neither None nor a Stream is a std::invalid_argument.
Stream parse_stream(const char* op, nb::handle value);

}  // namespace gqmm::python
