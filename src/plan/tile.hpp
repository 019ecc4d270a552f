// The properties of an instruction set's register tiles. Plans and kernels both read them.
#pragma once

#include "namespaces.hpp"

namespace gqmm::detail {

/// The size of a register tile.
struct TileSize {
  int mr;  // rows of x
  int nv;  // strips of 16 outputs; nr = 16 · nv
};

/// The largest number of rows for which the float GEMV is faster than the float GEMM.
struct GemvCrossover {
  int along_k;  // for weights with rows along k, in formats without an integer form
  int along_n;  // for weights with rows along n, whose unpacking takes more instructions for the 16 outputs of one k

  [[nodiscard]] constexpr int of(bool transpose) const { return transpose ? along_k : along_n; }
};

}  // namespace gqmm::detail
