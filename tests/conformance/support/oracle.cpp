#include "conformance/support/oracle.hpp"

#include "plan/routing.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace gqmm::conformance {

using namespace detail;

namespace {

std::size_t to_size(std::int64_t count) { return static_cast<std::size_t>(count); }

// One expert's ŵ as [k][n] and the G of its groups: [g][n] with groups along k, else [k][g] with groups along n.
struct Expert {
  std::vector<double> weights;
  std::vector<double> group_magnitudes;
};

class Decoder {
 public:
  explicit Decoder(const Problem& problem) : p_(problem), w_(quantized(problem.weights)) {
    for (unsigned code = 0; w_ != nullptr && code < 1U << w_->format().bits; ++code) {
      values_[code] = w_->format().value(code);
      largest_ = std::isfinite(values_[code]) ? std::max(largest_, std::fabs(values_[code])) : largest_;
    }
  }

  void decode(std::int64_t expert, Expert& into) const {
    into.weights.resize(to_size(p_.K * p_.N));
    if (w_ == nullptr) {
      decode_dense(expert, into);
      return;
    }
    const std::int64_t rows = w_->transpose() ? p_.N : p_.K;
    const std::int64_t along = w_->transpose() ? p_.K : p_.N;
    into.group_magnitudes.resize(to_size(rows * along / w_->group_size()));
    for (std::int64_t row = 0; row < rows; ++row) {
      decode_row(expert, row, along, into);
    }
  }

 private:
  void decode_dense(std::int64_t expert, Expert& into) const {
    into.group_magnitudes.clear();
    const MatrixBatch& b = std::get<DenseMatrices>(p_.weights).b;
    for (std::int64_t k = 0; k < p_.K; ++k) {
      const std::byte* const row = b.row(expert, k);
      for (std::int64_t n = 0; n < p_.N; ++n) {
        into.weights[to_size(k * p_.N + n)] = load_float(row + n * b.col_stride(), b.dtype());
      }
    }
  }

  void decode_row(std::int64_t expert, std::int64_t row, std::int64_t along, Expert& into) const {
    const int bits = w_->format().bits;
    std::vector<std::uint32_t> words(to_size(along * bits / 32) + 1, 0);
    for (std::int64_t i = 0; i < along * bits / 32; ++i) {
      words[to_size(i)] = load_unaligned<std::uint32_t>(w_->codes.row(expert, row) + i * w_->codes.col_stride());
    }
    double global = 1;
    if (!w_->global_scale.empty()) {
      global = nvfp4_scale_factor(load_unaligned<float>(w_->global_scale.matrix(expert)));
    }
    for (std::int64_t i = 0; i < along; ++i) {
      const std::int64_t group = i / w_->group_size();
      const double scale = global * load_scale(w_->scales.row(expert, row) + group * w_->scales.col_stride(),
                                               w_->format().scale_encoding, w_->scales.dtype());
      const double bias = w_->format().has_biases
                              ? load_float(w_->biases.row(expert, row) + group * w_->biases.col_stride(), w_->biases.dtype())
                              : 0.0;
      const std::int64_t bit = i * bits;
      const std::uint64_t pair = words[to_size(bit / 32)] | std::uint64_t{words[to_size(bit / 32) + 1]} << 32;
      const unsigned code = static_cast<unsigned>(pair >> (bit % 32)) & ((1U << bits) - 1U);
      const double weight = scale * values_[code] + bias;
      const double magnitude = std::max(std::fabs(scale) * largest_, std::fabs(bias));
      if (w_->transpose()) {
        into.weights[to_size(i * p_.N + row)] = weight;
        into.group_magnitudes[to_size(group * p_.N + row)] = magnitude;
      } else {
        into.weights[to_size(row * p_.N + i)] = weight;
        into.group_magnitudes[to_size(row * (along / w_->group_size()) + group)] = magnitude;
      }
    }
  }

  const Problem& p_;
  const QuantizedMatrices* w_;  // nullptr: dense
  std::array<double, 256> values_ = {};
  double largest_ = 0;
};

// Sums over k of one row, all outputs side by side.
class RowSums {
 public:
  explicit RowSums(const Problem& problem)
      : p_(problem),
        w_(quantized(problem.weights)),
        y_(to_size(p_.N)),
        magnitude_(to_size(p_.N)),
        plain_(to_size(p_.N)),
        x_(to_size(p_.K)) {}

  void run(const Expert& expert, std::int64_t lhs, std::int64_t m, ReferenceValue* out) {
    std::fill(y_.begin(), y_.end(), 0.0);
    std::fill(magnitude_.begin(), magnitude_.end(), 0.0);
    std::fill(plain_.begin(), plain_.end(), 0.0);
    const std::byte* const row = p_.x.row(lhs, m);
    for (std::int64_t k = 0; k < p_.K; ++k) {
      const double x = load_float(row + k * p_.x.col_stride(), p_.x.dtype());
      x_[to_size(k)] = std::fabs(x);
      add(x, expert.weights.data() + k * p_.N);
    }
    add_magnitudes(expert);
    for (std::int64_t n = 0; n < p_.N; ++n) {
      out[n] = {y_[to_size(n)], magnitude_[to_size(n)], plain_[to_size(n)]};
    }
  }

 private:
  void add(double x, const double* weights) {
    double* const y = y_.data();
    double* const plain = plain_.data();
    for (std::size_t n = 0; n < y_.size(); ++n) {
      const double product = x * weights[n];
      y[n] += product;
      plain[n] += std::fabs(product);
    }
  }

  void add_magnitudes(const Expert& expert) {
    if (w_ == nullptr) {
      magnitude_ = plain_;
      return;
    }
    const double* group = expert.group_magnitudes.data();
    if (w_->transpose()) {
      for (std::int64_t k = 0; k < p_.K; k += w_->group_size(), group += p_.N) {
        double sum = 0;
        for (std::int64_t i = k; i < k + w_->group_size(); ++i) {
          sum += x_[to_size(i)];
        }
        for (std::int64_t n = 0; n < p_.N; ++n) {
          magnitude_[to_size(n)] += sum * group[n];
        }
      }
      return;
    }
    const std::int64_t groups = p_.N / w_->group_size();
    for (std::int64_t k = 0; k < p_.K; ++k) {
      for (std::int64_t g = 0; g < groups; ++g) {
        magnitude_[to_size(g * w_->group_size())] += x_[to_size(k)] * group[k * groups + g];
      }
    }
    for (std::int64_t n = 0; n < p_.N; ++n) {
      magnitude_[to_size(n)] = magnitude_[to_size(n / w_->group_size() * w_->group_size())];
    }
  }

  const Problem& p_;
  const QuantizedMatrices* w_;  // nullptr: dense
  std::vector<double> y_;
  std::vector<double> magnitude_;
  std::vector<double> plain_;
  std::vector<double> x_;  // |x|
};

}  // namespace

Oracle::Oracle(const Problem& problem) : M_(problem.M), N_(problem.N) {
  values_.resize(problem.rhs.size() * to_size(M_ * N_));
  const Decoder decoder(problem);
  RowSums sums(problem);
  Expert expert;
  const Routing routing = route(problem.rhs, std::int64_t{1} << 62, false);
  for (const Segment& segment : routing.segments) {
    decoder.decode(segment.expert, expert);
    for (std::int64_t i = segment.first; i < segment.last; ++i) {
      const std::int64_t pair = routing.order[to_size(i)];
      for (std::int64_t m = 0; m < M_; ++m) {
        sums.run(expert, problem.lhs[to_size(pair)], m, values_.data() + (pair * M_ + m) * N_);
      }
    }
  }
}

}  // namespace gqmm::conformance
