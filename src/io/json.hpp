// JSON from files that nobody vouches for.
#pragma once

#include <gqmm/export.hpp>

#include <nlohmann/json.hpp>

#include <span>
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

/// The document in `text` as Python's json module reads and writes it, for files that people and other tools make.
/// - NaN, Infinity and -Infinity, and numbers beyond double such as 1e999, become strings that hold them as they are written. So
///   whoever needs a number there can say what is in its place, and nobody else notices.
/// - Of a key that comes twice the last value holds, as in Python. Only the keys in `unique`, and all keys below them, may not
///   come twice.
/// Throws FileError otherwise as parse_json does, and for files of another kind (a Git LFS pointer, a web page) with their names.
[[nodiscard]] GQMM_API nlohmann::json parse_python_json(std::string_view text, std::string_view origin,
                                                        std::span<const std::string_view> unique);

}  // namespace gqmm::io
