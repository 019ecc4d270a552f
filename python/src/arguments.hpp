// The parsers check the kind of each argument that is not an array (TypeError), and convert it. The API judges the values.
#pragma once

#include "arrays.hpp"

#include <gqmm/stream.hpp>
#include <gqmm/types.hpp>

#include <optional>
#include <string>

namespace gqmm::python {

bool parse_bool(ArgumentName name, nb::handle value);
int parse_int(ArgumentName name, nb::handle value);
/// Rounds to float32; numbers beyond its range become infinite.
float parse_float(ArgumentName name, nb::handle value);
std::string parse_string(ArgumentName name, nb::handle value);
/// The optional parsers return an empty optional for None.
std::optional<bool> parse_optional_bool(ArgumentName name, nb::handle value);
std::optional<int> parse_optional_int(ArgumentName name, nb::handle value);
std::optional<Mode> parse_optional_mode(const char* op, nb::handle value);
Precision parse_precision(const char* op, nb::handle value);
Missing parse_missing(ArgumentName name, nb::handle value);
/// `value` is an element type of any of the libraries, or the name of one.
std::optional<Dtype> parse_optional_dtype(ArgumentName name, nb::handle value);
/// The index arrays of a product. They must be destroyed with the GIL held.
struct IndexOperands {
  std::optional<Operand> lhs;
  std::optional<Operand> rhs;
  bool sorted;
};
/// Imports the arguments lhs_indices, rhs_indices and sorted_indices.
IndexOperands import_indices(const char* op, nb::handle lhs_indices, nb::handle rhs_indices, nb::handle sorted_indices);
/// None is the default stream. Throws std::invalid_argument if `value` is neither None nor a Stream.
Stream parse_stream(const char* op, nb::handle value);

}  // namespace gqmm::python
