// A register tile of the integer GEMM alone, beside its equation (kernels/gemm.hpp), bit for bit: every tile of every instruction
// set.
#include "conformance/support/check.hpp"
#include "conformance/support/guarded_memory.hpp"
#include "conformance/support/random.hpp"
#include "cpu/dispatch.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <vector>

namespace gqmm::cpu {
namespace {

using conformance::Edge;
using conformance::guarded_memory;
using conformance::Random;

struct Tile {
  PanelKind kind;
  int slices;
  int mr;
  int nv;
  int group_size;

  [[nodiscard]] bool biased() const { return kind != PanelKind::signed_bytes; }
  [[nodiscard]] int max_u() const { return kind == PanelKind::nibbles ? 15 : kind == PanelKind::wide_bytes ? 255 : 127; }
  [[nodiscard]] std::int64_t bytes_per_k() const { return kind == PanelKind::nibbles ? 8 : 16; }
  [[nodiscard]] int scales_of_group() const { return x_scales_of_group(slices, biased()); }
};

/// Memory that ends before an inaccessible page.
template <class T>
std::shared_ptr<T> guarded(std::int64_t count) {
  const auto bytes = guarded_memory(static_cast<std::size_t>(count) * sizeof(T), Edge::upper);
  return {bytes, reinterpret_cast<T*>(bytes.get())};
}

/// What a tile reads.
struct TileOperands {
  TileOperands(const Tile& tile, int groups, Random& random)
      : strip_codes(groups * tile.group_size * tile.bytes_per_k()),
        strip_scales(groups * 2 * lanes),
        codes(guarded<std::uint8_t>(tile.nv * strip_codes)),
        scales(guarded<float>(tile.nv * strip_scales)) {
    const int mask = tile.kind == PanelKind::nibbles ? 255 : tile.max_u();
    std::generate_n(codes.get(), tile.nv * strip_codes, [&] { return static_cast<std::uint8_t>(random.integer(0, 255) & mask); });
    std::generate_n(scales.get(), tile.nv * strip_scales, [&] { return static_cast<float>(random.normal()); });
    for (int r = 0; r < tile.mr; ++r) {
      const std::int64_t bytes = std::int64_t{groups} * tile.group_size * tile.slices;
      x.push_back(guarded<std::int8_t>(bytes));
      // The ends of the range often, so that a product that saturates shows.
      std::generate_n(x.back().get(), bytes, [&] {
        return static_cast<std::int8_t>(random.chance(0.5) ? random.integer(-128, 127) : random.chance(0.5) ? -128 : 127);
      });
      x_scales.push_back(guarded<float>(groups * tile.scales_of_group()));
      words_of_rows.push_back(reinterpret_cast<const std::int32_t*>(x.back().get()));
      scales_of_rows.push_back(x_scales.back().get());
    }
  }

  std::int64_t strip_codes;   // bytes
  std::int64_t strip_scales;  // floats
  std::shared_ptr<std::uint8_t> codes;
  std::shared_ptr<float> scales;
  std::vector<std::shared_ptr<std::int8_t>> x;
  std::vector<std::shared_ptr<float>> x_scales;
  std::vector<const std::int32_t*> words_of_rows;
  std::vector<const float*> scales_of_rows;
};

constexpr int format_offset = 12;  // of signed bytes

/// Σ over a group, of output `lane` of a strip, of u · a (u − offset in place of u for signed bytes); and of a alone.
struct GroupSum {
  std::int64_t products = 0;
  std::int64_t x = 0;
};
GroupSum sum_of_group(const Tile& tile, const TileOperands& operands, int row, int slice, int group, int strip, int lane) {
  GroupSum sum;
  const int steps = tile.group_size / 4;
  const bool nibbles = tile.kind == PanelKind::nibbles;
  for (int step = 0; step < steps; ++step) {
    const std::int64_t line = std::int64_t{group} * (nibbles ? steps / 2 : steps) + (nibbles ? step / 2 : step);
    for (int byte = 0; byte < 4; ++byte) {
      int u = operands.codes.get()[strip * operands.strip_codes + line * 64 + lane * 4 + byte];
      u = !nibbles ? u : step % 2 == 0 ? u & 15 : u >> 4;
      const std::int8_t a =
          operands.x[static_cast<std::size_t>(row)].get()[((group * steps + step) * tile.slices + slice) * 4 + byte];
      sum.products += (u - (tile.biased() ? 0 : format_offset)) * a;
      sum.x += a;
    }
  }
  return sum;
}

/// Fills x_scales for units of 2^−20 · 256^p, and for biased formats a sum of x that no other group has.
void fill_x_scales(const Tile& tile, const TileOperands& operands, int groups) {
  for (int r = 0; r < tile.mr; ++r) {
    float* out = operands.x_scales[static_cast<std::size_t>(r)].get();
    for (int g = 0; g < groups; ++g) {
      for (int p = 0; p < tile.slices; ++p) {
        *out++ = std::ldexp(0x1.8p23F, -20 + 8 * (tile.slices - 1 - p));
      }
      if (tile.biased()) {
        *out++ = 0.37F * static_cast<float>(r + 1) + static_cast<float>(g);
        continue;
      }
      for (int p = 0; p < tile.slices; ++p) {
        const GroupSum sum = sum_of_group(tile, operands, r, p, g, 0, 0);
        const double zero = 0x1.8p23 + static_cast<double>(format_offset * sum.x);
        *out++ = static_cast<float>(std::ldexp(zero, -20 + 8 * (tile.slices - 1 - p)));
      }
    }
  }
}

/// c of one output after all groups, each step rounded once, in the order of the contract (docs/reference/numerics.md).
float expected_c(const Tile& tile, const TileOperands& operands, int groups, int row, int strip, int lane, float c) {
  for (int g = 0; g < groups; ++g) {
    const auto part = [&](int p) {
      const auto products = static_cast<double>(sum_of_group(tile, operands, row, p, g, strip, lane).products);
      return std::ldexp(products, -20 + 8 * (tile.slices - 1 - p));  // exact in float32
    };
    auto total = static_cast<float>(part(tile.slices - 1));
    for (int p = tile.slices - 2; p >= 0; --p) {
      total = static_cast<float>(part(p) + static_cast<double>(total));
    }
    const float* scale = operands.scales.get() + strip * operands.strip_scales + g * 2 * lanes + lane;
    if (tile.biased()) {
      const float x_sum = operands.scales_of_rows[static_cast<std::size_t>(row)][g * tile.scales_of_group() + tile.slices];
      c = std::fma(scale[lanes], x_sum, c);
    }
    c = std::fma(total, *scale, c);
  }
  return c;
}

void expect_tile_right(void (*kernel)(const GemmArguments&), const Tile& tile, Random& random) {
  constexpr int groups = 3;
  const TileOperands operands(tile, groups, random);
  fill_x_scales(tile, operands, groups);
  const std::int64_t c_stride = tile.nv * lanes + 5;
  for (const bool first : {true, false}) {
    std::vector<float> before(static_cast<std::size_t>(tile.mr * c_stride));
    std::generate(before.begin(), before.end(), [&] { return first ? NAN : static_cast<float>(random.normal()); });
    std::vector<float> c = before;
    kernel({.codes = reinterpret_cast<const std::byte*>(operands.codes.get()),
            .strip_codes = operands.strip_codes,
            .scales = operands.scales.get(),
            .strip_scales = operands.strip_scales,
            .x = operands.words_of_rows.data(),
            .x_scales = operands.scales_of_rows.data(),
            .c = c.data(),
            .c_stride = c_stride,
            .groups = groups,
            .group_size = tile.group_size,
            .first = first,
            .prefetch = reinterpret_cast<const std::byte*>(operands.codes.get()),
            .prefetch_lines = static_cast<int>(random.integer(0, 2))});
    for (int r = 0; r < tile.mr; ++r) {
      for (std::int64_t n = 0; n < c_stride; ++n) {
        const auto at = static_cast<std::size_t>(r * c_stride + n);
        float expected = before[at];
        if (n < tile.nv * lanes) {
          expected = expected_c(tile, operands, groups, r, static_cast<int>(n / lanes), static_cast<int>(n % lanes),
                                first ? 0.0F : before[at]);
        }
        ASSERT_EQ(std::bit_cast<std::uint32_t>(c[at]), std::bit_cast<std::uint32_t>(expected))
            << "first " << first << ", row " << r << ", output " << n << ": " << c[at] << " instead of " << expected;
      }
    }
  }
}

TEST(GemmTile, EveryTileGivesTheBitsOfItsEquationAndWritesNothingElse) {
  const conformance::RestoreInstructionSet restore;
  Random random(1);
  int kernels = 0;
  for (const std::string& set : conformance::supported_instruction_sets()) {
    set_instruction_set(set);
    const KernelTable& table = active_kernels();
    for (int slices = 1; slices <= max_slices; ++slices) {
      for (int kind = 0; kind < panel_kinds; ++kind) {
        for (const int group_size : {16, 32, 64, 128}) {
          for (int mr = 1; mr <= max_tile_rows; ++mr) {
            for (int nv = 1; nv <= max_tile_strips; ++nv) {
              const Tile tile = {static_cast<PanelKind>(kind), slices, mr, nv, group_size};
              const bool small = group_size == 16;
              const auto kernel = small ? table.gemm16[slices - 1][mr - 1][nv - 1] : table.gemm[kind][slices - 1][mr - 1][nv - 1];
              const TileSize largest = table.gemm_tile[slices - 1];
              ASSERT_EQ(kernel != nullptr, mr <= largest.mr && nv <= largest.nv);
              if (kernel == nullptr || (small && tile.biased())) {
                continue;
              }
              ++kernels;
              SCOPED_TRACE(fmt::format("{}: kind {}, {} slices, {} rows x {} strips, groups of {}", set, kind, slices, mr, nv,
                                       group_size));
              expect_tile_right(kernel, tile, random);
              ASSERT_FALSE(testing::Test::HasFatalFailure());
            }
          }
        }
      }
    }
  }
  EXPECT_GT(kernels, 0);
}

}  // namespace
}  // namespace gqmm::cpu
