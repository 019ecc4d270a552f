// The packed copies of a program's weights, by the Python objects of their w: a copy is freed with its object.
#pragma once

#include "packed_copy.hpp"

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace nb = nanobind;

namespace gqmm::mlx {

/// Guarded by the GIL.
class PackCache {
 public:
  /// The copy of `weights` (w, scales, biases if there are), of which `w_object` is w; null for what is part of a graph, which
  /// will not be seen again. What an object stands for may change (w[0] = …): the arrays and settings decide.
  std::shared_ptr<PackedCopy> find(nb::handle w_object, std::vector<mx::array> weights, const PackOptions& options);
  void clear() { entries_.clear(); }

 private:
  struct Entry {
    nb::object finalizer;  // a weak reference, whose callback removes the entry
    std::shared_ptr<PackedCopy> copy;
  };
  std::unordered_map<PyObject*, Entry> entries_;
};

}  // namespace gqmm::mlx
