// Reads JSON from untrusted files.
#pragma once

#include "internal_api.hpp"

#include <nlohmann/json.hpp>

#include <span>
#include <string_view>

namespace gqmm::io {

/// A file or header of more bytes than this is refused, as the safetensors library does.
inline constexpr std::size_t max_json_bytes = 100'000'000;
/// The largest number of values (objects, arrays, strings, numbers) in one document. There is a limit because a parsed value
/// needs far more memory than its text, such as "[],". The largest checkpoints have about 100,000 tensors of nine values each.
inline constexpr std::size_t max_json_values = 2'000'000;
/// The largest depth of objects and arrays inside one another. config.json needs about six.
inline constexpr int max_json_depth = 64;

/// Parses the document in `text`. Throws FileError, which names `origin`, unless `text` is one JSON value within the limits
/// above. An object that has a key twice is also refused, because parsers disagree about which value counts.
[[nodiscard]] GQMM_INTERNAL_API nlohmann::json parse_json(std::string_view text, std::string_view origin);

/// Parses the document in `text` as Python's json module does. This is for files that people and other tools make.
/// - NaN, Infinity, -Infinity and numbers that a double cannot hold, such as 1e999, become strings with the same text. So code
///   that needs a number there can show the text in its message, and other code is not affected.
/// - If a key appears twice, its last value counts, as in Python. Only the keys in `unique`, and all keys below them, may not
///   appear twice.
///
/// Throws FileError as parse_json does. For a file of another kind, such as a Git LFS pointer or a web page, the message names
/// the kind.
[[nodiscard]] GQMM_INTERNAL_API nlohmann::json parse_python_json(std::string_view text, std::string_view origin,
                                                                 std::span<const std::string_view> unique);

}  // namespace gqmm::io
