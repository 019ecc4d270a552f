// The rows of x that a call uses, prepared once each: cut into slices for the integer path, or widened to float32.
#pragma once

#include "cpu/kernels/kernel_table.hpp"
#include "cpu/scratch.hpp"
#include "plan/problem.hpp"

#include <cstdint>
#include <vector>

namespace gqmm::cpu {

class Activations {
 public:
  /// `even_odd`: the order of k that the format's kernels want. `sliced` false: the float path.
  Activations(const Problem& problem, const KernelTable& kernels, bool sliced, bool even_odd);
  ~Activations();
  Activations(const Activations&) = delete;
  Activations& operator=(const Activations&) = delete;

  /// Distinct rows; prepare(i) makes row i ready and may run on any thread.
  [[nodiscard]] std::int64_t count() const noexcept { return static_cast<std::int64_t>(matrices_.size()) * problem_.M; }
  void prepare(std::int64_t row);

  /// The row of pair `pair`, matrix row `m`.
  [[nodiscard]] std::int64_t row_of(std::int64_t pair, std::int64_t m) const {
    return slot_of_pair_[static_cast<std::size_t>(pair)] * problem_.M + m;
  }
  [[nodiscard]] const std::int32_t* words(std::int64_t row) const { return words_ + row * words_stride_; }
  [[nodiscard]] const float* scales(std::int64_t row, std::int64_t group = 0) const {
    return scales_ + row * scales_stride_ + group * group_scales_;
  }
  [[nodiscard]] const float* floats(std::int64_t row) const { return floats_ + row * floats_stride_; }
  [[nodiscard]] bool any_exceptional(std::int64_t row) const { return any_exceptional_[static_cast<std::size_t>(row)] != 0; }
  [[nodiscard]] bool is_exceptional(std::int64_t row, std::int64_t group) const {
    return exceptional_[static_cast<std::size_t>(row * groups_ + group)] != 0;
  }
  /// Elements [k0, k0 + count) of a row as float32.
  void widen(std::int64_t row, std::int64_t k0, std::int64_t count, float* out) const;

 private:
  [[nodiscard]] const std::byte* source(std::int64_t row) const {
    return problem_.x.row(matrices_[static_cast<std::size_t>(row / problem_.M)], row % problem_.M);
  }

  const Problem& problem_;
  const KernelTable& kernels_;
  Scratch word_scratch_;
  Scratch scale_scratch_;
  bool sliced_;
  bool even_odd_;
  std::int64_t groups_ = 0;
  std::vector<std::int64_t> matrices_;      // flat positions in x of the distinct matrices
  std::vector<std::int64_t> slot_of_pair_;  // position in matrices_
  std::int64_t words_stride_ = 0;
  std::int64_t scales_stride_ = 0;
  std::int64_t group_scales_ = 0;
  std::int64_t floats_stride_ = 0;
  std::int32_t* words_ = nullptr;
  float* scales_ = nullptr;
  float* floats_ = nullptr;
  std::vector<std::uint8_t> exceptional_;
  std::vector<std::uint8_t> any_exceptional_;
};

}  // namespace gqmm::cpu
