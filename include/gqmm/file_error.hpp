// What reading and writing files throws.
#pragma once

#include <gqmm/export.hpp>

#include <stdexcept>

namespace gqmm {

/// A file that cannot be read or written, or is not what it should be. The message names the file in brackets, the values found
/// and, where there is one, the remedy.
class GQMM_API FileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace gqmm
