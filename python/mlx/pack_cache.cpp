#include "pack_cache.hpp"

#include "arrays.hpp"

#include <algorithm>
#include <atomic>
#include <utility>

namespace gqmm::mlx {
namespace {

std::atomic<std::int64_t> limit = 0;
std::atomic<std::int64_t> held_count = 0;
std::atomic<std::int64_t> held_bytes = 0;
std::atomic<std::int64_t> made_count = 0;

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

std::optional<PackedWeights> PackedCopy::get() {
  const std::lock_guard lock(mutex_);
  if (decided_) {
    return packed_;
  }
  decided_ = true;
  // A packed copy is as large as the original, but for padding.
  std::int64_t bytes = 0;
  for (const mx::array& weight : weights_) {
    bytes += static_cast<std::int64_t>(weight.nbytes());
  }
  if (held_bytes.fetch_add(bytes) + bytes > limit) {
    held_bytes -= bytes;
    return std::nullopt;
  }
  PackOptions options = options_;
  if (weights_.size() > 2) {
    options.biases = view_of(weights_[2]);
  }
  try {
    packed_ = pack(view_of(weights_[0]), view_of(weights_[1]), options);
  } catch (...) {
    held_bytes -= bytes;
    throw;
  }
  held_bytes += static_cast<std::int64_t>(packed_->nbytes()) - bytes;
  held_count += 1;
  made_count += 1;
  return packed_;
}

PackedCopies packed_copies() { return {held_count, held_bytes, made_count}; }

void limit_packed_copies(std::int64_t bytes) { limit = bytes; }

}  // namespace gqmm::mlx
