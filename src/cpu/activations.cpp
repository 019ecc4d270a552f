#include "cpu/activations.hpp"

#include <algorithm>
#include <utility>

namespace gqmm::cpu {
namespace {

constexpr std::size_t kept_scratch = std::size_t{64} << 20;
// Marking every matrix of x costs one word each; sorting the pairs' positions some ten words each.
constexpr std::int64_t matrices_per_pair_worth_marking = 8;

// A call takes what its thread keeps and gives it back at its end. A second call of the thread may begin before that, in a check
// whether the first one should stop; it has memory of its own.
struct KeptScratch {
  Scratch words;
  Scratch scales;
};

/// Rows a power of two apart would fall into the same few sets of L1: an odd number of cache lines spreads them.
std::int64_t spread_stride(std::int64_t elements) {
  constexpr std::int64_t per_line = 16;  // of 4 bytes
  const std::int64_t lines = (elements + per_line - 1) / per_line;
  return (lines | 1) * per_line;
}

/// Distinct values of `lhs`, and for each entry the position of its value among them.
void find_distinct(std::span<const std::int64_t> lhs, std::int64_t matrices, std::vector<std::int64_t>& distinct,
                   std::vector<std::int64_t>& position) {
  const auto pairs = static_cast<std::int64_t>(lhs.size());
  position.resize(lhs.size());
  if (matrices <= matrices_per_pair_worth_marking * pairs) {
    std::vector<std::int64_t> slot(static_cast<std::size_t>(matrices), -1);
    for (std::size_t pair = 0; pair < lhs.size(); ++pair) {
      std::int64_t& known = slot[static_cast<std::size_t>(lhs[pair])];
      if (known < 0) {
        known = static_cast<std::int64_t>(distinct.size());
        distinct.push_back(lhs[pair]);
      }
      position[pair] = known;
    }
    return;
  }
  distinct.assign(lhs.begin(), lhs.end());
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  for (std::size_t pair = 0; pair < lhs.size(); ++pair) {
    position[pair] = std::lower_bound(distinct.begin(), distinct.end(), lhs[pair]) - distinct.begin();
  }
}

}  // namespace

Activations::Activations(const Problem& problem, const KernelTable& kernels, bool sliced, bool even_odd)
    : problem_(problem), kernels_(kernels), sliced_(sliced), even_odd_(even_odd) {
  if (KeptScratch* const kept = kept_by_thread<KeptScratch>()) {
    word_scratch_ = std::move(kept->words);
    scale_scratch_ = std::move(kept->scales);
  }
  find_distinct(problem.lhs, problem.x.count(), matrices_, slot_of_pair_);
  const std::int64_t rows = count();
  if (!sliced_) {
    floats_stride_ = spread_stride(problem.K);
    floats_ = word_scratch_.take<float>(rows, floats_stride_);
    return;
  }
  groups_ = problem.K / problem.group_size;
  words_stride_ = spread_stride(problem.K / 4 * problem.slices);
  group_scales_ = x_scales_of_group(problem.slices, problem.format->has_biases);
  scales_stride_ = groups_ * group_scales_;
  words_ = word_scratch_.take<std::int32_t>(rows, words_stride_);
  scales_ = scale_scratch_.take<float>(rows, scales_stride_);
  exceptional_.resize(static_cast<std::size_t>(rows * groups_));
  any_exceptional_.resize(static_cast<std::size_t>(rows));
}

Activations::~Activations() {
  if (KeptScratch* const kept = kept_by_thread<KeptScratch>()) {
    word_scratch_.release(kept_scratch);
    scale_scratch_.release(kept_scratch);
    kept->words = std::move(word_scratch_);
    kept->scales = std::move(scale_scratch_);
  }
}

void Activations::prepare(std::int64_t row) {
  if (!sliced_) {
    widen(row, 0, problem_.K, floats_ + row * floats_stride_);
    return;
  }
  const SliceArguments arguments = {.x = source(row),
                                    .dtype = problem_.x.dtype(),
                                    .K = problem_.K,
                                    .group_size = problem_.group_size,
                                    .biased = problem_.format->has_biases,
                                    .offset = problem_.format->integer.offset,
                                    .words = words_ + row * words_stride_,
                                    .scales = scales_ + row * scales_stride_,
                                    .exceptional = exceptional_.data() + row * groups_};
  any_exceptional_[static_cast<std::size_t>(row)] = kernels_.slice[problem_.slices - 1][even_odd_ ? 1 : 0](arguments) ? 1 : 0;
}

void Activations::widen(std::int64_t row, std::int64_t k0, std::int64_t count, float* out) const {
  const Dtype dtype = problem_.x.dtype();
  kernels_.widen(source(row) + k0 * static_cast<std::int64_t>(size_of(dtype)), scale_type_of(dtype), count, out);
}

}  // namespace gqmm::cpu
