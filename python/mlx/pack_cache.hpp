// The packed copies of a program's weights. The key of a copy is the Python object of its w, and the copy is freed with it.
#pragma once

#include "packed_copy.hpp"

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace nb = nanobind;

namespace gqmm::mlx {

/// A cache that the GIL guards.
class PackCache {
 public:
  /// Returns the copy of `weights`: w, scales and, if the mode has them, biases. `w_object` is the Python object of w. Returns
  /// null for an array of a graph, which will not be seen again. A Python object may get another array, as by w[0] = …. Therefore
  /// the copy is made anew if the arrays or settings are different.
  std::shared_ptr<PackedCopy> find(nb::handle w_object, std::vector<mx::array> weights, const WeightSettings& settings);
  void clear() { entries_.clear(); }

 private:
  struct Entry {
    nb::object finalizer;  // a weak reference, whose callback removes the entry
    std::shared_ptr<PackedCopy> copy;
  };
  std::unordered_map<PyObject*, Entry> entries_;
};

}  // namespace gqmm::mlx
