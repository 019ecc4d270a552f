#include "rotation.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace gqmm::bench {

Rotation::Rotation(const Case& settings, int copies)
    : case_(settings),
      copies_(copies),
      deck_(static_cast<std::size_t>(settings.shape.experts)),
      cards_(static_cast<std::size_t>(settings.shape.experts)) {
  std::iota(deck_.begin(), deck_.end(), 0U);
  std::iota(cards_.begin(), cards_.end(), 0U);
  std::shuffle(deck_.begin(), deck_.end(), random_);
}

Rotation::Hit Rotation::next(std::span<std::uint32_t> experts) {
  std::int64_t hit = 1;
  switch (case_.routing) {
    case Routing::uniform: hit = draw_uniform(experts); break;
    case Routing::balanced: hit = draw_balanced(experts); break;
    case Routing::one: std::fill(experts.begin(), experts.end(), 0U); break;
  }
  if (position_ + static_cast<std::size_t>(hit) > deck_.size()) {
    copy_ = (copy_ + 1) % copies_;
    std::shuffle(deck_.begin(), deck_.end(), random_);
    position_ = 0;
  }
  for (std::uint32_t& expert : experts) {
    expert = deck_[position_ + expert];
  }
  position_ += static_cast<std::size_t>(hit);
  return {copy_, hit};
}

/// Every token draws `top` different experts, independently; roles are numbered in the order of their first appearance.
std::int64_t Rotation::draw_uniform(std::span<std::uint32_t> roles) {
  constexpr std::uint32_t none = ~0U;
  std::vector<std::uint32_t> role_of(deck_.size(), none);
  std::uint32_t hit = 0;
  const auto top = static_cast<std::size_t>(case_.shape.top);
  for (std::size_t pair = 0; pair < roles.size(); ++pair) {
    const std::size_t drawn = pair % top;
    std::uniform_int_distribution<std::size_t> any(drawn, cards_.size() - 1);
    std::swap(cards_[drawn], cards_[any(random_)]);
    std::uint32_t& role = role_of[cards_[drawn]];
    if (role == none) {
      role = hit++;
    }
    roles[pair] = role;
  }
  return hit;
}

/// The cards are dealt out to the end before they are shuffled again, so that every expert has the same number of rows, ± 1.
std::int64_t Rotation::draw_balanced(std::span<std::uint32_t> roles) {
  if (roles.size() <= deck_.size()) {
    std::iota(roles.begin(), roles.end(), 0U);
    return static_cast<std::int64_t>(roles.size());
  }
  const auto top = static_cast<std::size_t>(case_.shape.top);
  std::size_t position = cards_.size();
  for (std::size_t first = 0; first < roles.size(); first += top) {
    deal(roles.subspan(first, top), position);
  }
  return case_.shape.experts;
}

/// Where the cards run out within a token, those that it has already go to the end of the new deck.
void Rotation::deal(std::span<std::uint32_t> token, std::size_t& position) {
  for (std::size_t dealt = 0; dealt < token.size(); ++dealt) {
    if (position == cards_.size()) {
      std::shuffle(cards_.begin(), cards_.end(), random_);
      const auto held = token.first(dealt);
      std::partition(cards_.begin(), cards_.end(),
                     [&](std::uint32_t card) { return std::find(held.begin(), held.end(), card) == held.end(); });
      position = 0;
    }
    token[dealt] = cards_[position++];
  }
}

}  // namespace gqmm::bench
