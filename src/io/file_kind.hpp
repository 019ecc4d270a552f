// Recognises the kind of a file that should be safetensors or JSON but is not. People name such files by mistake, and failed
// downloads leave them.
#pragma once

#include "internal_api.hpp"

#include <string_view>

namespace gqmm::io {

/// Describes the kind of the file and gives the remedy: "is a Git LFS pointer, …; run …". The subject of the sentence is left to
/// the caller. The result is empty if the first bytes of the file do not tell its kind. Call this only for a file that cannot be
/// read as safetensors. Some of these beginnings could also be the length of a header.
[[nodiscard]] GQMM_INTERNAL_API std::string_view describe_other_kind(std::string_view bytes);

/// True if the text is a pointer of Git LFS, which stands in place of a large file that has not been downloaded.
[[nodiscard]] GQMM_INTERNAL_API bool is_lfs_pointer(std::string_view bytes);

}  // namespace gqmm::io
