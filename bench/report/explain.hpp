// Prints the plans with which the library would compute the cases of a benchmark.
#pragma once

#include "cases/plan.hpp"

#include <iosfwd>
#include <string>
#include <vector>

namespace gqmm::bench {

/// Writes the plan of each case, for the first routing that a measurement of the case would draw. Nothing is measured, and no
/// weights are made.
///
/// With `format` "json" it writes an array with an object for each case. Its fields are case (the name), isa, threads, slices (0
/// in float32), kc and segments. A segment has expert, rows, path, slices, mr, nr and items. Any other format is text for
/// readers.
void explain(std::ostream& out, const std::vector<PlannedCase>& cases, const std::string& format);

}  // namespace gqmm::bench
