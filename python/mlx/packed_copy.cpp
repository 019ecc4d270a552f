#include "packed_copy.hpp"

#include "arrays.hpp"

#include <algorithm>
#include <atomic>
#include <new>
#include <utility>

namespace gqmm::mlx {
namespace {

std::atomic<std::int64_t> limit = 0;
std::atomic<std::int64_t> held_count = 0;
std::atomic<std::int64_t> held_bytes = 0;
std::atomic<std::int64_t> made_count = 0;

/// Adds to the bytes that are held, unless that would exceed the limit.
bool reserve(std::int64_t bytes) {
  std::int64_t held = held_bytes;
  while (held + bytes <= limit) {
    if (held_bytes.compare_exchange_weak(held, held + bytes)) {
      return true;
    }
  }
  return false;
}

}  // namespace

PackedCopy::PackedCopy(std::vector<mx::array> weights, PackOptions options)
    : weights_(std::move(weights)), options_(std::move(options)) {}

PackedCopy::~PackedCopy() {
  if (packed_) {
    held_count -= 1;
    held_bytes -= static_cast<std::int64_t>(packed_->nbytes());
  }
}

bool PackedCopy::is_of(const std::vector<mx::array>& weights) const {
  return weights.size() >= weights_.size() && std::equal(weights_.begin(), weights_.end(), weights.begin(),
                                                         [](const mx::array& a, const mx::array& b) { return a.id() == b.id(); });
}

bool PackedCopy::has_settings_of(const PackOptions& options) const {
  return options.mode == options_.mode && options.bits == options_.bits && options.group_size == options_.group_size &&
         options.transpose == options_.transpose;
}

std::optional<PackedWeights> PackedCopy::use() {
  const std::lock_guard lock(mutex_);
  if (packed_ || !std::exchange(was_used_, true)) {
    return packed_;
  }
  // A packed copy is as large as the original, but for padding.
  std::int64_t bytes = 0;
  for (const mx::array& weight : weights_) {
    bytes += static_cast<std::int64_t>(weight.nbytes());
  }
  if (!reserve(bytes)) {
    return std::nullopt;
  }
  try {
    packed_ = pack();
  } catch (const std::bad_alloc&) {
    held_bytes -= bytes;
    return std::nullopt;
  } catch (...) {
    held_bytes -= bytes;
    throw;
  }
  held_bytes += static_cast<std::int64_t>(packed_->nbytes()) - bytes;
  held_count += 1;
  made_count += 1;
  return packed_;
}

PackedWeights PackedCopy::pack() const {
  PackOptions options = options_;
  if (weights_.size() > 2) {
    options.biases = view_of(weights_[2]);
  }
  return gqmm::pack(view_of(weights_[0]), view_of(weights_[1]), options);
}

PackedCopies packed_copies() { return {held_count, held_bytes, made_count}; }

void limit_packed_copies(std::int64_t bytes) { limit = bytes; }

}  // namespace gqmm::mlx
