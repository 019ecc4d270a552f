#include "cpu/prepared_rows.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace gqmm::cpu {
namespace {

// find_distinct() marks matrices if x has at most this many for each pair. Marking costs one word for each matrix of x; sorting
// costs about ten words for each pair.
constexpr std::int64_t matrices_per_pair_worth_marking = 8;

/// Rows whose distance is a power of two would share a few sets of L1. This stride is an odd number of cache lines, which spreads
/// them.
std::int64_t spread_stride(std::int64_t elements) {
  constexpr std::int64_t per_line = 16;  // elements of 4 bytes
  const std::int64_t lines = (elements + per_line - 1) / per_line;
  return (lines | 1) * per_line;
}

/// Finds the distinct values of `lhs`, and for each entry the position of its value among them. Negative entries have none.
void find_distinct(std::span<const std::int64_t> lhs, std::int64_t matrices, std::vector<std::int64_t>& distinct,
                   std::vector<std::int64_t>& position) {
  const auto pairs = static_cast<std::int64_t>(lhs.size());
  position.resize(lhs.size());
  if (matrices <= matrices_per_pair_worth_marking * pairs) {
    std::vector<std::int64_t> slot(static_cast<std::size_t>(matrices), -1);
    for (std::size_t pair = 0; pair < lhs.size(); ++pair) {
      if (lhs[pair] < 0) {
        continue;
      }
      std::int64_t& known = slot[static_cast<std::size_t>(lhs[pair])];
      if (known < 0) {
        known = static_cast<std::int64_t>(distinct.size());
        distinct.push_back(lhs[pair]);
      }
      position[pair] = known;
    }
    return;
  }
  std::copy_if(lhs.begin(), lhs.end(), std::back_inserter(distinct), [](std::int64_t matrix) { return matrix >= 0; });
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  for (std::size_t pair = 0; pair < lhs.size(); ++pair) {
    position[pair] = std::lower_bound(distinct.begin(), distinct.end(), lhs[pair]) - distinct.begin();
  }
}

}  // namespace

RowForm row_form(const Plan& plan, const WeightView& weights) {
  if (plan.slices == 0) {
    return {};
  }
  const Format& format = weights.quantized()->format();
  return {.slices = plan.slices,
          .group_size = weights.quantized()->group_size(),
          .biased = format.has_biases,
          .offset = format.integer.offset,
          .even_odd = weights.format_kernels().even_odd};
}

PreparedRows::PreparedRows(CallContext& call, const RowSource& source, const RowForm& form)
    : source_(source), form_(form), kernels_(call.kernels()) {
  find_distinct(source.matrix_of_pair, source.matrices.count(), distinct_, position_of_pair_);
  const std::int64_t rows = count();
  if (form.slices == 0) {
    floats_stride_ = spread_stride(source.K);
    floats_ = call.take<float>(rows, floats_stride_);
    return;
  }
  groups_ = source.K / form.group_size;
  words_stride_ = spread_stride(source.K / 4 * form.slices);
  group_scales_ = x_scales_of_group(form.slices, form.biased);
  scales_stride_ = groups_ * group_scales_;
  words_ = call.take<std::int32_t>(rows, words_stride_);
  scales_ = call.take<float>(rows, scales_stride_);
  exceptional_ = call.take<std::uint8_t>(rows, groups_);
  any_exceptional_ = call.take<std::uint8_t>(rows);
}

void PreparedRows::prepare(std::int64_t row) {
  if (form_.slices == 0) {
    widen(row, 0, source_.K, floats_ + row * floats_stride_);
    return;
  }
  const SliceArguments arguments = {.x = address_of(row),
                                    .dtype = source_.matrices.dtype(),
                                    .K = source_.K,
                                    .group_size = form_.group_size,
                                    .biased = form_.biased,
                                    .offset = form_.offset,
                                    .words = words_ + row * words_stride_,
                                    .scales = scales_ + row * scales_stride_,
                                    .exceptional = exceptional_ + row * groups_};
  any_exceptional_[row] = kernels_.slice[form_.slices - 1][form_.even_odd ? 1 : 0](arguments) ? 1 : 0;
}

void PreparedRows::widen(std::int64_t row, std::int64_t k0, std::int64_t count, float* out) const {
  const Dtype dtype = source_.matrices.dtype();
  kernels_.widen(address_of(row) + k0 * static_cast<std::int64_t>(size_of(dtype)), scale_type_of(dtype), count, out);
}

}  // namespace gqmm::cpu
