// What the parts of attention share: the call, and the buffers of a thread.
#pragma once

#include "cpu/kernels/attention_table.hpp"
#include "cpu/scratch.hpp"
#include "plan/attention_problem.hpp"

#include <cstdint>

namespace gqmm::cpu {

/// What all rows of a call share.
struct AttentionCall {
  const AttentionProblem& problem;
  const KernelTable& kernels;
  const AttentionKernels& attention;
  bool in_place;  // keys and values are read as they lie in memory, and not packed: faster for few rows; never quantized ones

  /// Floats of a row of sums: the width of v, up to whole vectors.
  [[nodiscard]] std::int64_t padded_width() const { return (problem.width() + lanes - 1) / lanes * lanes; }
  /// Elements of a row of q and k, up to whole pieces of 16 bytes.
  [[nodiscard]] std::int64_t padded_depth() const { return (problem.depth() + padding - 1) / padding * padding; }

 private:
  static constexpr std::int64_t padding = 8;
};

/// Buffers of one thread.
struct AttentionScratch {
  Scratch q;
  Scratch interleaved_q;
  Scratch chunks;
  Scratch totals;
  Scratch careful;
  Scratch mean;
  Scratch scores;
  Scratch keys;
  Scratch values;
  Scratch copied_keys;
  Scratch scales;
  Scratch biases;
  Scratch scales_of_strip;
  Scratch biases_of_strip;
  Scratch visible;
  Scratch masks;
  Scratch y;
};

}  // namespace gqmm::cpu
