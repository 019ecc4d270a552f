// Comma-separated values for programs that read them.
#pragma once

#include <span>
#include <string>

namespace gqmm::tools {

/// One record of RFC 4180. Fields with commas, quotes or line ends are in quotes. The record ends with CR LF.
std::string csv_record(std::span<const std::string> fields);

}  // namespace gqmm::tools
