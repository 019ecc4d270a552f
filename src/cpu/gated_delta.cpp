#include "cpu/gated_delta.hpp"

#include "cpu/call_context.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/load_floats.hpp"
#include "cpu/scratch.hpp"

#include <algorithm>
#include <array>

namespace gqmm::cpu {
namespace {

/// Tokens whose rows are converted together. They serve all columns of an item; 16 columns with their state stay in L1 for so
/// many tokens.
constexpr std::int64_t tokens_of_block = 16;
/// An element of the state takes about as long as this number of multiply-adds, for each token and once for its memory.
constexpr double multiply_adds_of_a_token = 4;
constexpr double multiply_adds_of_an_element = 16;
/// Items of a thread, at least, where there are enough columns.
constexpr std::int64_t items_of_a_thread = 4;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t whole_vectors(std::int64_t n) { return divide_up(n, lanes) * lanes; }

struct DeltaScratch {
  Scratch q;
  Scratch k;
  Scratch g;
  Scratch v;
};

/// Some columns of v of one head of one sequence.
struct Columns {
  std::int64_t batch;
  std::int64_t head;
  std::int64_t first;
  std::int64_t count;
};

/// Tokens of a sequence that count, ascending.
struct TokenBlock {
  std::array<std::int64_t, tokens_of_block> tokens;
  std::int64_t count = 0;

  [[nodiscard]] std::int64_t operator[](std::int64_t i) const { return tokens[static_cast<std::size_t>(i)]; }
};

/// The rows of a block of tokens in float32, padded to whole vectors. Rows of v are of an item's columns alone; y replaces them.
struct BlockRows {
  float* q;
  float* k;
  float* g;
  float* v;
  std::array<float, tokens_of_block> beta;
};

/// Rows of a state in memory, and the bytes between them.
struct StateView {
  const std::byte* rows;
  std::int64_t stride;
};

class DeltaRule {
 public:
  DeltaRule(const GatedDeltaProblem& problem, const KernelTable& kernels, int threads)
      : p_(problem), kernels_(kernels), delta_rule_(active_layers().delta_rule), k_stride_(whole_vectors(problem.Dk)) {
    const std::int64_t strips = divide_up(p_.Dv, lanes);
    const std::int64_t wanted = divide_up(threads * items_of_a_thread, p_.batch * p_.v_heads);
    item_columns_ = divide_up(strips, std::min(wanted, strips)) * lanes;
    items_of_head_ = divide_up(p_.Dv, item_columns_);
  }

  [[nodiscard]] std::int64_t items() const { return p_.batch * p_.v_heads * items_of_head_; }

  void run_item(std::int64_t item) const {
    const Columns columns = columns_of(item);
    const ThreadCached<DeltaScratch> scratch;
    BlockRows rows = {.q = scratch->q.take<float>(tokens_of_block, k_stride_),
                      .k = scratch->k.take<float>(tokens_of_block, k_stride_),
                      .g = scratch->g.take<float>(tokens_of_block, k_stride_),
                      .v = scratch->v.take<float>(tokens_of_block, whole_vectors(columns.count)),
                      .beta = {}};
    const StateView next = {next_state(columns), next_stride()};
    StateView state = first_state(columns);
    std::int64_t t = 0;
    do {
      const TokenBlock block = next_block(columns, t);
      load_rows(columns, block, rows);
      run_block(columns, block, state, rows);
      state = next;
    } while (t < p_.tokens);
  }

 private:
  [[nodiscard]] Columns columns_of(std::int64_t item) const {
    const std::int64_t head = item / items_of_head_;
    const std::int64_t first = item % items_of_head_ * item_columns_;
    return {
        .batch = head / p_.v_heads, .head = head % p_.v_heads, .first = first, .count = std::min(item_columns_, p_.Dv - first)};
  }

  [[nodiscard]] std::int64_t next_stride() const { return p_.Dk * static_cast<std::int64_t>(sizeof(float)); }
  [[nodiscard]] std::byte* next_state(const Columns& columns) const {
    return p_.next_state + ((columns.batch * p_.v_heads + columns.head) * p_.Dv + columns.first) * next_stride();
  }
  /// The state before the first token. If there is none, this makes zeros where the new one will be.
  [[nodiscard]] StateView first_state(const Columns& columns) const {
    if (!p_.state.empty()) {
      return {p_.state.row(columns.batch * p_.v_heads + columns.head, columns.first), p_.state.row_stride()};
    }
    std::fill_n(next_state(columns), columns.count * next_stride(), std::byte{0});
    return {next_state(columns), next_stride()};
  }

  /// Collects tokens from t on, until the block is full, and moves t behind them. It writes the rows of y of those that do not
  /// count.
  TokenBlock next_block(const Columns& columns, std::int64_t& t) const {
    TokenBlock block;
    for (; t < p_.tokens && block.count < tokens_of_block; ++t) {
      if (p_.counts(columns.batch, t)) {
        block.tokens[static_cast<std::size_t>(block.count++)] = t;
      } else {
        std::fill_n(y_of(columns, t), columns.count * y_size(), std::byte{0});
      }
    }
    return block;
  }

  void load_rows(const Columns& columns, const TokenBlock& block, BlockRows& rows) const {
    const std::int64_t v_stride = whole_vectors(columns.count);
    for (std::int64_t i = 0; i < block.count; ++i) {
      const std::int64_t token = columns.batch * p_.tokens + block[i];
      const std::int64_t k_row = token * p_.k_heads + p_.k_head(columns.head);
      const std::int64_t v_row = token * p_.v_heads + columns.head;
      load_row(p_.q, k_row * p_.Dk, p_.Dk, rows.q + i * k_stride_);
      load_row(p_.k, k_row * p_.Dk, p_.Dk, rows.k + i * k_stride_);
      load_decay(v_row, rows.g + i * k_stride_);
      load_row(p_.v, v_row * p_.Dv + columns.first, columns.count, rows.v + i * v_stride);
      load_floats(kernels_, p_.beta, v_row, 1, &rows.beta[static_cast<std::size_t>(i)]);
    }
  }
  /// Loads elements of a matrix, and zeros up to whole vectors.
  void load_row(const MatrixBatch& matrices, std::int64_t first, std::int64_t count, float* row) const {
    load_floats(kernels_, matrices, first, count, row);
    std::fill(row + count, row + whole_vectors(count), 0.0F);
  }
  /// The factors of decay of a head at a token, one for each element of k.
  void load_decay(std::int64_t v_row, float* g) const {
    if (p_.g.cols() == p_.Dk) {
      return load_row(p_.g, v_row * p_.Dk, p_.Dk, g);
    }
    load_floats(kernels_, p_.g, v_row, 1, g);
    std::fill(g + 1, g + p_.Dk, g[0]);
    std::fill(g + p_.Dk, g + k_stride_, 0.0F);
  }

  void run_block(const Columns& columns, const TokenBlock& block, const StateView& state, BlockRows& rows) const {
    const std::int64_t v_stride = whole_vectors(columns.count);
    for (std::int64_t first = 0; first < columns.count; first += lanes) {
      delta_rule_({.state = state.rows + first * state.stride,
                   .state_stride = state.stride,
                   .next_state = next_state(columns) + first * next_stride(),
                   .next_stride = next_stride(),
                   .columns = static_cast<int>(std::min<std::int64_t>(lanes, columns.count - first)),
                   .Dk = p_.Dk,
                   .tokens = block.count,
                   .q = rows.q,
                   .k = rows.k,
                   .g = rows.g,
                   .beta = rows.beta.data(),
                   .v = rows.v + first,
                   .v_stride = v_stride});
    }
    for (std::int64_t i = 0; i < block.count; ++i) {
      kernels_.round(rows.v + i * v_stride, columns.count, p_.y_dtype, y_of(columns, block[i]));
    }
  }

  [[nodiscard]] std::int64_t y_size() const { return static_cast<std::int64_t>(size_of(p_.y_dtype)); }
  [[nodiscard]] std::byte* y_of(const Columns& columns, std::int64_t t) const {
    const std::int64_t row = (columns.batch * p_.tokens + t) * p_.v_heads + columns.head;
    return p_.y + (row * p_.Dv + columns.first) * y_size();
  }

  const GatedDeltaProblem& p_;
  const KernelTable& kernels_;
  void (*delta_rule_)(const DeltaRuleArguments&);
  std::int64_t k_stride_;  // elements between rows of q, k and g
  std::int64_t item_columns_;
  std::int64_t items_of_head_;
};

}  // namespace

void gated_delta_update(const GatedDeltaProblem& problem) {
  const double elements =
      static_cast<double>(problem.batch * problem.v_heads) * static_cast<double>(problem.Dv) * static_cast<double>(problem.Dk);
  CallContext call(elements * (static_cast<double>(problem.tokens) * multiply_adds_of_a_token + multiply_adds_of_an_element),
                   problem.threads);
  const DeltaRule rule(problem, call.kernels(), call.threads());
  call.use_at_most(rule.items());
  call.add_phase(rule.items(), [](std::int64_t) { return 1; }, [&](std::int64_t item, std::int64_t) { rule.run_item(item); });
  call.run();
}

}  // namespace gqmm::cpu
