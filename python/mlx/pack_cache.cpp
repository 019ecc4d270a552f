#include "pack_cache.hpp"

#include <algorithm>
#include <utility>

namespace gqmm::mlx {

std::shared_ptr<PackedCopy> PackCache::find(nb::handle w_object, std::vector<mx::array> weights, const WeightSettings& settings) {
  if (std::any_of(weights.begin(), weights.end(), [](const mx::array& a) { return a.has_primitive() || a.is_tracer(); })) {
    return nullptr;
  }
  Entry& entry = entries_[w_object.ptr()];
  if (!entry.finalizer.is_valid()) {
    entry.finalizer = nb::weakref(w_object, nb::cpp_function([this, key = w_object.ptr()](nb::handle) { entries_.erase(key); }));
  }
  if (!entry.copy || !entry.copy->is_of(weights) || !entry.copy->has_settings(settings)) {
    entry.copy = std::make_shared<PackedCopy>(std::move(weights), settings);
  }
  return entry.copy;
}

}  // namespace gqmm::mlx
