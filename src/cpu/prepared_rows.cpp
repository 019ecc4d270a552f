#include "cpu/prepared_rows.hpp"

#include <algorithm>

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

}  // namespace

RowForm row_form(const KernelPlan& plan, const WeightView& weights) {
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
  find_distinct(call);
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

/// Finds the distinct matrices of the pairs, and for each pair the position of its matrix among them. Pairs without a matrix have
/// none.
void PreparedRows::find_distinct(CallContext& call) {
  const std::span<const std::int64_t> matrix_of_pair = source_.matrix_of_pair;
  if (source_.every_matrix) {
    matrices_ = source_.matrices.count();
    position_of_pair_ = matrix_of_pair.data();
    return;
  }
  const auto pairs = static_cast<std::int64_t>(matrix_of_pair.size());
  auto* const distinct = call.take<std::int64_t>(pairs);
  auto* const position = call.take<std::int64_t>(pairs);
  distinct_ = distinct;
  position_of_pair_ = position;
  if (source_.matrices.count() <= matrices_per_pair_worth_marking * pairs) {
    auto* const known = call.take<std::int64_t>(source_.matrices.count());  // the position of each matrix, or -1
    std::fill_n(known, source_.matrices.count(), -1);
    for (std::int64_t pair = 0; pair < pairs; ++pair) {
      const std::int64_t matrix = matrix_of_pair[static_cast<std::size_t>(pair)];
      if (matrix < 0) {
        continue;
      }
      if (known[matrix] < 0) {
        known[matrix] = matrices_;
        distinct[matrices_++] = matrix;
      }
      position[pair] = known[matrix];
    }
    return;
  }
  std::int64_t* last =
      std::copy_if(matrix_of_pair.begin(), matrix_of_pair.end(), distinct, [](std::int64_t m) { return m >= 0; });
  std::sort(distinct, last);
  last = std::unique(distinct, last);
  matrices_ = last - distinct;
  for (std::int64_t pair = 0; pair < pairs; ++pair) {
    position[pair] = std::lower_bound(distinct, last, matrix_of_pair[static_cast<std::size_t>(pair)]) - distinct;
  }
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
