// The choice of the experts that a call hits, and of the copy of the weights that it reads.
#pragma once

#include "cases/case.hpp"

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace gqmm::bench {

/// Chooses the experts of each call in two stages. First it draws which pairs share an expert, as the case's routing says. A set
/// of pairs with the same expert is a role. Then it gives each role to an expert that no recent call has hit. Consecutive calls
/// hit different experts until too few experts of a copy are left. Then they use the next copy. Every assignment of roles is
/// equally likely, so the experts of a single call are distributed as its routing says.
class Rotation {
 public:
  Rotation(const Case& settings, int copies);

  struct Hit {
    int copy = 0;              ///< the copy of the weights
    std::int64_t experts = 0;  ///< the number of distinct experts
  };

  /// Writes the experts of the next call's pairs. Each token has `top` of them.
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
  std::vector<std::uint32_t> deck_;   // the experts in random order, in which they get roles
  std::size_t position_ = 0;          // the position in the deck of the first expert that has not been hit
  std::vector<std::uint32_t> cards_;  // the roles in random order, for a draw
  std::vector<double> popularity_;    // the popularity of each role, for learned routing
  std::mt19937 random_{20240607};
};

}  // namespace gqmm::bench
