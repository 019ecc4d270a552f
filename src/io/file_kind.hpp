// What a file is that should be safetensors or JSON and is not: what people give by mistake, or what a failed download leaves.
#pragma once

#include <gqmm/export.hpp>

#include <string_view>

namespace gqmm::io {

/// A sentence without its subject, with the remedy: "is a Git LFS pointer, …; run …". Empty if the first bytes of the file tell
/// nothing. Ask only about a file that cannot be read as what it should be: a few of these beginnings could be lengths.
[[nodiscard]] GQMM_API std::string_view describe_other_kind(std::string_view bytes);

}  // namespace gqmm::io
