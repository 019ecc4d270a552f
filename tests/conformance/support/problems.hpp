// Problems made from a short description and a seed.
#pragma once

#include "conformance/support/layout.hpp"
#include "conformance/support/random.hpp"
#include "formats/format.hpp"

#include <gqmm/gqmm.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

/// How the pairs are said.
enum class IndexForm {
  both,      ///< lhs and rhs, one-dimensional
  grid,      ///< lhs (T, 1) and rhs (T, 2), as a router gives them
  rhs_only,  ///< x (T, 1, M, K) and rhs (T, 2)
  lhs_only,  ///< one pair per expert
  neither,   ///< x (2, 1, M, K) broadcasts with w (experts, …)
};
inline constexpr IndexForm all_index_forms[] = {IndexForm::both, IndexForm::grid, IndexForm::rhs_only, IndexForm::lhs_only,
                                                IndexForm::neither};

/// How x and the codes are distributed.
enum class Values {
  normal,
  positive,      ///< x in [0, 1), codes near the largest: little cancels in Σ x·q, almost all of it against the bias
  group_scaled,  ///< every 16 values of x with a magnitude of their own
  sparse,        ///< most of x is zero of either sign
};
inline constexpr Values all_values[] = {Values::normal, Values::positive, Values::group_scaled, Values::sparse};

struct Spec {
  const Format* format = nullptr;  ///< nullptr: dense (gather_mm); b's type is then scale_dtype
  int group_size = 0;
  Dtype x_dtype = Dtype::float32;
  Dtype scale_dtype = Dtype::float32;  ///< affine
  bool transpose = true;               ///< dense: b's columns are contiguous along K
  bool global_scale = false;           ///< for formats that have one
  Precision precision = Precision::standard;
  std::int64_t M = 1;
  std::int64_t N = 1;
  std::int64_t K = 1;
  std::vector<std::int64_t> pairs;  ///< of each expert; with lhs_only and neither only their number counts
  bool sorted = false;
  IndexForm index_form = IndexForm::both;
  Layout layout = Layout::contiguous;
  Values values = Values::normal;
  std::uint64_t seed = 0;

  [[nodiscard]] std::int64_t experts() const { return static_cast<std::int64_t>(pairs.size()); }
};

/// One line from which the problem can be made again.
std::string describe(const Spec& spec);

/// The numbers of a problem, row-major, before they are laid out. Tests change them.
struct Contents {
  Shape x_leading;
  Shape w_leading;
  std::vector<float> x;                   ///< (x_leading, M, K); rounded to x_dtype when laid out
  std::vector<std::uint32_t> w;           ///< words of (experts, N, K) or (experts, K, N)
  std::vector<float> b;                   ///< dense (experts, K, N)
  std::vector<float> scales;              ///< affine, rounded to scale_dtype when laid out
  std::vector<float> biases;              ///< affine
  std::vector<std::uint8_t> scale_bytes;  ///< the other modes
  std::vector<float> global_scales;       ///< (experts)
  Shape lhs_shape;                        ///< empty: None
  Shape rhs_shape;                        ///< empty: None
  std::vector<std::int64_t> lhs;
  std::vector<std::int64_t> rhs;
};

/// Whether some of a format's codes are Inf or NaN.
inline bool has_special_codes(const Format& format) {
  return format.float_code && format.float_code->special != SpecialCodes::none;
}

/// The code at [expert, row, index] of w, `row` and `index` in w's own order.
unsigned code_at(const Spec& spec, const Contents& contents, std::int64_t expert, std::int64_t row, std::int64_t index);
void set_code(const Spec& spec, Contents& contents, std::int64_t expert, std::int64_t row, std::int64_t index, unsigned code);

Contents random_contents(const Spec& spec);

/// A call of gather_qmm (or gather_mm), ready to be made.
struct Operands {
  bool dense = false;
  array x;
  QuantizedWeights weights;  // dense: only its w, which is gather_mm's b
  GatherQmmOptions options;
};

Operands lay_out_operands(const Spec& spec, const Contents& contents);
inline Operands make_operands(const Spec& spec) { return lay_out_operands(spec, random_contents(spec)); }

/// The values rounded to `dtype`, as bytes.
std::vector<std::byte> bytes_of(std::span<const float> values, Dtype dtype);

}  // namespace gqmm::conformance
