// Which experts a call hits, and in which copy of the weights.
#pragma once

#include "case.hpp"

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace gqmm::bench {

/// Draws how a call's pairs share experts as the case's routing says, then gives those roles to experts that no recent call had:
/// consecutive calls hit different experts until too few of a copy are left, then the next copy's. Every assignment of roles is
/// equally likely, so a single call's experts are distributed as its routing says.
class Rotation {
 public:
  Rotation(const Case& settings, int copies);

  struct Hit {
    int copy = 0;              ///< of the weights
    std::int64_t experts = 0;  ///< distinct ones
  };

  /// Writes the experts of the next call's pairs, `top` per token.
  Hit next(std::span<std::uint32_t> experts);

  [[nodiscard]] int copies() const { return copies_; }

 private:
  std::int64_t draw_uniform(std::span<std::uint32_t> roles);
  std::int64_t draw_half(std::span<std::uint32_t> roles);
  std::int64_t draw_learned(std::span<std::uint32_t> roles);
  std::int64_t draw_balanced(std::span<std::uint32_t> roles);
  void deal(std::span<std::uint32_t> token, std::size_t& position);

  Case case_;
  int copies_;
  int copy_ = 0;
  std::vector<std::uint32_t> deck_;   // the experts in random order, from which roles are given
  std::size_t position_ = 0;          // of the first in the deck that has not been hit
  std::vector<std::uint32_t> cards_;  // of a draw
  std::vector<double> popularity_;    // with learned routing
  std::mt19937 random_{20240607};
};

}  // namespace gqmm::bench
