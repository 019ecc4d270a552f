// The exception of this layer, and functions that make text from untrusted files fit to print.
#pragma once

#include "internal_api.hpp"

#include <gqmm/file_error.hpp>

#include <string>
#include <string_view>

namespace gqmm::io {

/// The public error, made from its parts.
class GQMM_INTERNAL_API FileError : public gqmm::FileError {
 public:
  FileError(std::string_view origin, std::string_view problem);
  /// `message` is complete: it begins with the origin in brackets and is fit to print.
  explicit FileError(const std::string& message) : gqmm::FileError(message) {}
};

/// Makes `text` fit to print. Every byte that is not printable ASCII becomes \xNN, and the middle of a long text is left out. So
/// names in a hostile file cannot send control sequences to a terminal, and cannot fill it.
[[nodiscard]] GQMM_INTERNAL_API std::string printable(std::string_view text);

/// The result of printable() in double quotes.
[[nodiscard]] GQMM_INTERNAL_API std::string in_quotes(std::string_view text);

/// Joins `action` and the text of the system's `error_number`: "cannot open: No such file or directory".
[[nodiscard]] GQMM_INTERNAL_API std::string system_error_text(std::string_view action, int error_number);

}  // namespace gqmm::io
