// The one error of this layer, and text from untrusted files made fit to print.
#pragma once

#include <gqmm/export.hpp>

#include <stdexcept>
#include <string>
#include <string_view>

namespace gqmm::io {

/// A file that cannot be read or written, or is not what it should be. The message names the file in brackets, the values found
/// and, where there is one, the remedy.
class GQMM_API FileError : public std::runtime_error {
 public:
  FileError(std::string_view origin, std::string_view problem);
  /// `message` is complete: it begins with the origin in brackets and is fit to print.
  explicit FileError(const std::string& message) : std::runtime_error(message) {}
};

/// `text` with everything but printable ASCII as \xNN and its middle left out when it is long: names in a hostile file must not
/// reach a terminal as control sequences, nor fill it.
[[nodiscard]] GQMM_API std::string printable(std::string_view text);

/// printable, in double quotes.
[[nodiscard]] GQMM_API std::string in_quotes(std::string_view text);

/// "cannot open: No such file or directory": `action` and the text of `error_number`.
[[nodiscard]] GQMM_API std::string system_error_text(std::string_view action, int error_number);

}  // namespace gqmm::io
