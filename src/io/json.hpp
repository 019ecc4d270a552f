// JSON from files that nobody vouches for.
#pragma once

#include <gqmm/export.hpp>

#include <nlohmann/json.hpp>

#include <string_view>

namespace gqmm::io {

/// A file or header of more bytes than this is refused, as the safetensors library does.
inline constexpr std::size_t max_json_bytes = 100'000'000;
/// Values (objects, arrays, strings, numbers) in one document. Parsed values take far more memory than "[]," does as text; the
/// largest checkpoints have about 100,000 tensors of nine values each.
inline constexpr std::size_t max_json_values = 2'000'000;
/// Objects and arrays inside one another. config.json needs about six.
inline constexpr int max_json_depth = 64;

/// The document in `text`. Throws FileError, naming `origin`, for anything but one JSON value within the limits above whose
/// objects have no key twice (parsers disagree about which one holds).
[[nodiscard]] GQMM_API nlohmann::json parse_json(std::string_view text, std::string_view origin);

}  // namespace gqmm::io
