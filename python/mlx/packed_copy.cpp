#include "packed_copy.hpp"

#include "arrays.hpp"
#include "lent_arrays.hpp"

#include <algorithm>
#include <atomic>
#include <new>
#include <unordered_set>
#include <utility>

namespace gqmm::mlx {
namespace {

std::atomic<std::int64_t> limit = 0;
std::atomic<std::int64_t> held_count = 0;
std::atomic<std::int64_t> held_bytes = 0;
std::atomic<std::int64_t> made_count = 0;
std::atomic<std::int64_t> lent_count = 0;

/// All copies. When an array lends its memory, the copies of that array are found here.
struct AllCopies {
  std::mutex mutex;
  std::unordered_set<PackedCopy*> copies;
};

/// The one object of its kind. It is never destroyed, because copies may be freed while the process exits.
AllCopies& all_copies() {
  static auto* const all = new AllCopies;
  return *all;
}

/// Adds to the bytes that are held, unless that would exceed the limit. Returns whether it did.
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

PackedCopy::PackedCopy(std::vector<mx::array> weights, WeightSettings settings)
    : weights_(std::move(weights)), settings_(settings) {
  AllCopies& all = all_copies();
  const std::lock_guard lock(all.mutex);
  all.copies.insert(this);
}

PackedCopy::~PackedCopy() {
  {
    AllCopies& all = all_copies();
    const std::lock_guard lock(all.mutex);
    all.copies.erase(this);
  }
  drop();
  lent_count -= is_lent_ ? 1 : 0;
}

void PackedCopy::drop() {
  if (packed_) {
    held_count -= 1;
    held_bytes -= static_cast<std::int64_t>(packed_->nbytes());
    packed_.reset();
  }
}

void PackedCopy::drop_if_of(const mx::array::Data* data) {
  const std::lock_guard lock(mutex_);
  if (packed_ && std::any_of(weights_.begin(), weights_.end(),
                             [&](const mx::array& weight) { return weight.data_shared_ptr().get() == data; })) {
    drop();
  }
}

bool PackedCopy::is_of(const std::vector<mx::array>& weights) const {
  return weights.size() >= weights_.size() && std::equal(weights_.begin(), weights_.end(), weights.begin(),
                                                         [](const mx::array& a, const mx::array& b) { return a.id() == b.id(); });
}

std::optional<PackedWeights> PackedCopy::use() {
  const std::lock_guard lock(mutex_);
  if (packed_ || !std::exchange(was_used_, true)) {
    return packed_;
  }
  if (std::any_of(weights_.begin(), weights_.end(), is_lent)) {
    lent_count += std::exchange(is_lent_, true) ? 0 : 1;
    return std::nullopt;
  }
  // A packed copy is as large as the original, except for its padding.
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
  QuantizedWeights weights = settings_.without_arrays();
  weights.w = view_of(weights_[0]);
  weights.scales = view_of(weights_[1]);
  if (weights_.size() > 2) {
    weights.biases = view_of(weights_[2]);
  }
  return gqmm::pack(weights);
}

PackedCopies packed_copies() { return {held_count, held_bytes, made_count, lent_count}; }

void drop_packed_copies_of(const mx::array::Data* data) {
  AllCopies& all = all_copies();
  const std::lock_guard lock(all.mutex);
  for (PackedCopy* copy : all.copies) {
    copy->drop_if_of(data);
  }
}

void limit_packed_copies(std::int64_t bytes) { limit = bytes; }

}  // namespace gqmm::mlx
