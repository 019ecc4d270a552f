#include "measure/rotation.hpp"

#include "cases/routing.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace gqmm::bench {
namespace {

/// Gives each card a number: its place in the order in which the cards first appear.
class Roles {
 public:
  explicit Roles(std::size_t cards) : role_of_(cards, none) {}

  std::uint32_t of(std::uint32_t card) {
    if (role_of_[card] == none) {
      role_of_[card] = count_++;
    }
    return role_of_[card];
  }
  [[nodiscard]] std::uint32_t count() const { return count_; }

 private:
  static constexpr std::uint32_t none = ~0U;
  std::vector<std::uint32_t> role_of_;
  std::uint32_t count_ = 0;
};

}  // namespace

Rotation::Rotation(const Case& settings, int copies)
    : case_(settings),
      copies_(copies),
      deck_(static_cast<std::size_t>(settings.shape.experts)),
      cards_(static_cast<std::size_t>(settings.shape.experts)) {
  std::iota(deck_.begin(), deck_.end(), 0U);
  std::iota(cards_.begin(), cards_.end(), 0U);
  std::shuffle(deck_.begin(), deck_.end(), random_);
  if (case_.routing == ExpertChoice::learned) {
    popularity_ = learned_popularity(settings.shape.experts, settings.shape.top);
  }
}

Rotation::Hit Rotation::next(std::span<std::uint32_t> experts) {
  std::int64_t hit = 1;
  switch (case_.routing) {
    case ExpertChoice::uniform: hit = draw_uniform(experts); break;
    case ExpertChoice::learned: hit = draw_learned(experts); break;
    case ExpertChoice::balanced: hit = draw_balanced(experts); break;
    case ExpertChoice::half: hit = draw_half(experts); break;
    case ExpertChoice::one: std::fill(experts.begin(), experts.end(), 0U); break;
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

/// Makes each token draw `top` different experts, independently of the other tokens.
std::int64_t Rotation::draw_uniform(std::span<std::uint32_t> roles) {
  Roles numbers(deck_.size());
  const auto top = static_cast<std::size_t>(case_.shape.top);
  for (std::size_t pair = 0; pair < roles.size(); ++pair) {
    const std::size_t drawn = pair % top;
    std::uniform_int_distribution<std::size_t> any(drawn, cards_.size() - 1);
    std::swap(cards_[drawn], cards_[any(random_)]);
    roles[pair] = numbers.of(cards_[drawn]);
  }
  return numbers.count();
}

/// Gives the first card to every second pair. The other pairs of a token get different cards of the rest.
std::int64_t Rotation::draw_half(std::span<std::uint32_t> roles) {
  Roles numbers(deck_.size());
  const auto top = static_cast<std::size_t>(case_.shape.top);
  std::size_t drawn = 0;  // the token has drawn the cards 1 to `drawn`
  for (std::size_t pair = 0; pair < roles.size(); ++pair) {
    drawn = pair % top == 0 ? 0 : drawn;
    std::size_t card = 0;
    if (pair % 2 == 1 && cards_.size() > 1) {
      card = ++drawn;
      std::uniform_int_distribution<std::size_t> any(card, cards_.size() - 1);
      std::swap(cards_[card], cards_[any(random_)]);
    }
    roles[pair] = numbers.of(cards_[card]);
  }
  return numbers.count();
}

/// Draws experts by systematic sampling. Every token lays the experts end to end in random order. The length of an expert is its
/// popularity, and the sum of all lengths is `top`. The token takes the experts in which the marks u, u + 1, … fall. So the
/// probability of an expert is exactly its popularity. No token takes an expert twice, because no expert is longer than 1.
std::int64_t Rotation::draw_learned(std::span<std::uint32_t> roles) {
  Roles numbers(deck_.size());
  const auto top = static_cast<std::size_t>(case_.shape.top);
  std::uniform_real_distribution<double> start(0, 1);
  for (std::size_t first = 0; first < roles.size(); first += top) {
    std::shuffle(cards_.begin(), cards_.end(), random_);
    const double mark = start(random_);
    double end = 0;
    std::size_t taken = 0;
    for (std::size_t i = 0; i < cards_.size() && taken < top; ++i) {
      end += popularity_[cards_[i]];
      // The sum of the lengths is rounded. If the last mark misses, the last experts are taken.
      const bool needed = cards_.size() - i == top - taken;
      if (end > mark + static_cast<double>(taken) || needed) {
        roles[first + taken++] = numbers.of(cards_[i]);
      }
    }
  }
  return numbers.count();
}

/// Deals all cards before it shuffles them again, so that every expert has the same number of rows, ± 1.
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

/// If the cards run out within a token, the cards that the token has already go to the end of the new deck.
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
