// How a product is cut into work items.
#pragma once

#include "plan/routing.hpp"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace gqmm {

/// A block of the result: rows of one expert's segment × strips of 16 outputs. Rows count pairs × M.
struct Item {
  std::int64_t expert;
  std::int64_t first_row;  // row r is matrix row r % M of the pair order[r / M]
  std::int64_t rows;
  std::int64_t first_strip;
  std::int64_t strips;
};

/// What an item takes, roughly and relative to others of its call: reading and unpacking a strip is like multiplying two rows.
inline std::int64_t cost(const Item& item) { return (2 + item.rows) * item.strips; }

struct Tiling {
  std::int64_t few_rows;          // segments of at most so many rows take whole runs of strips (decode)
  std::int64_t strips_few_rows;   // strips per item there
  std::int64_t strips_many_rows;  // strips per item elsewhere
  std::int64_t rows_per_item;
};

/// Items of one expert are neighbours, so that its rows of x stay in the cache.
inline std::vector<Item> make_items(const Routing& routing, std::int64_t M, std::int64_t strips, const Tiling& tiling) {
  std::vector<Item> items;
  for (const Segment& segment : routing.segments) {
    const std::int64_t first = segment.first * M;
    const std::int64_t rows = segment.last * M - first;
    const std::int64_t strips_per_item = rows <= tiling.few_rows ? tiling.strips_few_rows : tiling.strips_many_rows;
    for (std::int64_t row = 0; row < rows; row += tiling.rows_per_item) {
      for (std::int64_t strip = 0; strip < strips; strip += strips_per_item) {
        items.push_back({segment.expert, first + row, std::min(tiling.rows_per_item, rows - row), strip,
                         std::min(strips_per_item, strips - strip)});
      }
    }
  }
  return items;
}

}  // namespace gqmm
