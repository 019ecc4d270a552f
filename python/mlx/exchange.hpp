// Marks around the exchanges of ranks in a graph, so that another thread can see how long this process waits for other ranks.
#pragma once

#include <mlx/array.h>

#include <cstdint>

namespace mx = ::mlx::core;

namespace gqmm::mlx {

/// An array with the values of `a`. When a stream has computed `a`, an exchange has begun.
mx::array exchange_begins(const mx::array& a);
/// An array with the values of `a`. When a stream has computed `a`, an exchange has ended.
mx::array exchange_ended(const mx::array& a);

/// The exchanges of this process so far.
struct Exchanges {
  std::int64_t begun = 0;
  std::int64_t ended = 0;
  double seconds_since_last = 0;  ///< since the last one began or ended
};
Exchanges exchanges();

}  // namespace gqmm::mlx
