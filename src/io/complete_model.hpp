// Finds models of which a part was not downloaded. They can be looked at, but a copy of one would be a wrong file.
#pragma once

#include "io/checkpoint.hpp"

namespace gqmm::io {

/// Throws FileError for the folder of a model that lacks a part: files numbered -00001-of-00003 that are fewer than three, or an
/// index of this model that names tensors which no file has. (An index that lacks some of the tensors belongs to another model,
/// for example to the one that this was made from, and says nothing.)
void check_complete(const Checkpoint& checkpoint);

}  // namespace gqmm::io
