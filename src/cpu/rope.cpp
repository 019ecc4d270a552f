#include "cpu/rope.hpp"

#include "cpu/call_context.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/load_floats.hpp"
#include "cpu/rotary_angles.hpp"
#include "cpu/scratch.hpp"

#include <algorithm>

namespace gqmm::cpu {
namespace {

/// Rows of an item.
constexpr std::int64_t rows_of_item = 32;
/// An element takes about as long as this number of multiply-adds, and an angle as long as that many elements.
constexpr double multiply_adds_of_an_element = 16;
constexpr double elements_of_an_angle = 16;

struct RopeScratch {
  Scratch row;
  Scratch pairs;
};

class Rotation {
 public:
  Rotation(const RopeProblem& problem, CallContext& call)
      : problem_(problem),
        kernels_(call.kernels()),
        rotate_(active_layers().rotate),
        pairs_(static_cast<std::int64_t>(problem.frequencies.size())),
        cos_(call.take<float>(problem.batch * problem.x.rows(), pairs_)),
        sin_(call.take<float>(problem.batch * problem.x.rows(), pairs_)) {}

  /// Computes the angles of one position of one batch element.
  void compute_angles(std::int64_t position) const {
    const std::int64_t T = problem_.x.rows();
    const auto at = static_cast<double>(problem_.offsets[static_cast<std::size_t>(position / T)] + position % T);
    for (std::int64_t i = 0; i < pairs_; ++i) {
      const CosineAndSine of_angle = cosine_and_sine(at * problem_.frequencies[static_cast<std::size_t>(i)]);
      cos_[position * pairs_ + i] = static_cast<float>(of_angle.cos);
      sin_[position * pairs_ + i] = static_cast<float>(of_angle.sin);
    }
  }

  void rotate_row(std::int64_t row, RopeScratch& scratch) const {
    const MatrixBatch& x = problem_.x;
    const std::int64_t D = x.cols();
    auto* const values = scratch.row.take<float>(D);
    load_floats(kernels_, x, row * D, D, values);
    const std::int64_t matrices_of_element = x.count() / problem_.batch;
    const std::int64_t position = row / x.rows() / matrices_of_element * x.rows() + row % x.rows();
    RotateArguments pairs = {
        .a = values, .b = values + pairs_, .cos = cos_ + position * pairs_, .sin = sin_ + position * pairs_, .n = pairs_};
    if (problem_.traditional) {
      pairs.a = scratch.pairs.take<float>(2, pairs_);
      pairs.b = pairs.a + pairs_;
      for (std::int64_t i = 0; i < pairs_; ++i) {
        pairs.a[i] = values[2 * i];
        pairs.b[i] = values[2 * i + 1];
      }
    }
    rotate_(pairs);
    if (problem_.traditional) {
      for (std::int64_t i = 0; i < pairs_; ++i) {
        values[2 * i] = pairs.a[i];
        values[2 * i + 1] = pairs.b[i];
      }
    }
    kernels_.round(values, D, x.dtype(), problem_.y + row * D * static_cast<std::int64_t>(size_of(x.dtype())));
  }

 private:
  const RopeProblem& problem_;
  const KernelTable& kernels_;
  void (*rotate_)(const RotateArguments&);
  std::int64_t pairs_;
  float* cos_;  // [batch element][t][pair]
  float* sin_;
};

}  // namespace

void rope(const RopeProblem& problem) {
  const MatrixBatch& x = problem.x;
  const std::int64_t rows = x.count() * x.rows();
  const std::int64_t positions = problem.batch * x.rows();
  const double elements = static_cast<double>(rows) * static_cast<double>(x.cols()) +
                          static_cast<double>(positions) * static_cast<double>(problem.frequencies.size()) * elements_of_an_angle;
  CallContext call(elements * multiply_adds_of_an_element, problem.threads);
  const Rotation rotation(problem, call);
  const std::int64_t items = (rows + rows_of_item - 1) / rows_of_item;
  call.use_at_most(std::max(items, positions));
  call.add_phase(
      positions, [](std::int64_t) { return 1; }, [&](std::int64_t item, std::int64_t) { rotation.compute_angles(item); });
  call.add_phase(
      items, [](std::int64_t) { return 1; },
      [&](std::int64_t item, std::int64_t) {
        const ThreadCached<RopeScratch> scratch;
        const std::int64_t end = std::min(rows, (item + 1) * rows_of_item);
        for (std::int64_t row = item * rows_of_item; row < end; ++row) {
          rotation.rotate_row(row, *scratch);
        }
      });
  call.run();
}

}  // namespace gqmm::cpu
