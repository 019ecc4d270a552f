// Finds models of which a part was not downloaded. Such a model can be inspected, but a copy of it would be a wrong file.
#pragma once

#include "io/checkpoint.hpp"

namespace gqmm::io {

/// Throws FileError for the folder of a model that lacks a part. A part is missing if one of the files -00001-of-00003 to
/// -00003-of-00003 is. A part is also missing if no file has a tensor that the index names. An index that lacks some of the
/// model's own tensors is ignored, because it belongs to another model. For example, it may be the model that this was made from.
void check_complete(const Checkpoint& checkpoint);

}  // namespace gqmm::io
