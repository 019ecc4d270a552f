#include "cpu/recurrence.hpp"

#include "cpu/call_context.hpp"
#include "cpu/load_floats.hpp"
#include "cpu/scratch.hpp"

#include <algorithm>

namespace gqmm::cpu {
namespace {

/// An element of the state takes about as long as this number of multiply-adds, for each token and once for its memory.
constexpr double multiply_adds_of_a_token = 4;
constexpr double multiply_adds_of_an_element = 16;
/// Items of a thread, at least, where there are enough columns.
constexpr std::int64_t items_of_a_thread = 4;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

struct RecurrenceScratch {
  Scratch q;
  Scratch k;
  Scratch g;
  Scratch v;
};

/// Some columns of v of some consecutive heads of one sequence, which one head of q and k serves. Several heads have all columns.
struct Columns {
  std::int64_t batch;
  std::int64_t k_head;
  std::int64_t first_head;
  std::int64_t heads;
  std::int64_t first;
  std::int64_t count;
};

/// The rows of a block of tokens in float32, padded to whole vectors. Rows of v are of an item's columns alone; y replaces them.
struct BlockRows {
  float* q;
  float* k;
  float* g;
  float* v;
  std::array<float, tokens_of_block> beta;
};

class RecurrenceItems {
 public:
  RecurrenceItems(const RecurrenceProblem& problem, const Recurrence& recurrence, const KernelTable& kernels, int threads)
      : p_(problem), recurrence_(recurrence), kernels_(kernels), k_stride_(whole_vectors(problem.Dk)) {
    const std::int64_t strips = divide_up(p_.Dv, lanes);
    const std::int64_t heads = p_.v_heads / p_.k_heads;
    const std::int64_t wanted = divide_up(threads * items_of_a_thread, p_.batch * p_.k_heads);  // of a head of q and k
    item_heads_ = std::max<std::int64_t>(heads / wanted, 1);
    items_of_k_head_ = divide_up(heads, item_heads_);
    item_columns_ = divide_up(strips, std::min(divide_up(wanted, items_of_k_head_), strips)) * lanes;
    items_of_columns_ = divide_up(p_.Dv, item_columns_);
  }

  [[nodiscard]] std::int64_t count() const { return p_.batch * p_.k_heads * items_of_k_head_ * items_of_columns_; }

  void run(std::int64_t item) const {
    const Columns columns = columns_of(item);
    const ThreadCached<RecurrenceScratch> scratch;
    BlockRows rows = {.q = scratch->q.take<float>(tokens_of_block, k_stride_),
                      .k = scratch->k.take<float>(tokens_of_block, k_stride_),
                      .g = scratch->g.take<float>(tokens_of_block, recurrence_.g_stride),
                      .v = scratch->v.take<float>(tokens_of_block, whole_vectors(columns.count)),
                      .beta = {}};
    std::int64_t t = 0;
    do {
      const bool is_first = t == 0;
      TokenBlock block = next_block(columns, t);
      load_keys(columns, block, rows);
      for (block.head = columns.first_head; block.head < columns.first_head + columns.heads; ++block.head) {
        load_values(columns, block, rows);
        recurrence_.load_gates(kernels_, block, rows.g, rows.beta.data());
        run_block(columns, block, is_first, rows);
      }
    } while (t < p_.tokens);
  }

 private:
  [[nodiscard]] Columns columns_of(std::int64_t item) const {
    const std::int64_t first = item % items_of_columns_ * item_columns_;
    const std::int64_t heads = item / items_of_columns_;
    const std::int64_t k_head = heads / items_of_k_head_;
    const std::int64_t heads_of_k_head = p_.v_heads / p_.k_heads;
    const std::int64_t before = heads % items_of_k_head_ * item_heads_;
    return {.batch = k_head / p_.k_heads,
            .k_head = k_head % p_.k_heads,
            .first_head = k_head % p_.k_heads * heads_of_k_head + before,
            .heads = std::min(item_heads_, heads_of_k_head - before),
            .first = first,
            .count = std::min(item_columns_, p_.Dv - first)};
  }

  [[nodiscard]] std::int64_t next_stride() const { return p_.Dk * static_cast<std::int64_t>(sizeof(float)); }
  [[nodiscard]] std::byte* next_state(const Columns& columns, std::int64_t head) const {
    return p_.next_state + ((columns.batch * p_.v_heads + head) * p_.Dv + columns.first) * next_stride();
  }

  /// Collects tokens from t on, until the block is full, and moves t behind them. It writes the rows of y of those that do not
  /// count.
  TokenBlock next_block(const Columns& columns, std::int64_t& t) const {
    TokenBlock block = {.head = columns.first_head};
    for (; t < p_.tokens && block.count < tokens_of_block; ++t) {
      const std::int64_t token = columns.batch * p_.tokens + t;
      if (p_.counts(columns.batch, t)) {
        block.tokens[static_cast<std::size_t>(block.count++)] = token;
      } else {
        for (std::int64_t head = columns.first_head; head < columns.first_head + columns.heads; ++head) {
          std::fill_n(y_of(columns, token, head), columns.count * y_size(), std::byte{0});
        }
      }
    }
    return block;
  }

  void load_keys(const Columns& columns, const TokenBlock& block, BlockRows& rows) const {
    for (std::int64_t i = 0; i < block.count; ++i) {
      const std::int64_t first = (block[i] * p_.k_heads + columns.k_head) * p_.Dk;
      load_padded_row(kernels_, p_.q, first, p_.Dk, rows.q + i * k_stride_);
      load_padded_row(kernels_, p_.k, first, p_.Dk, rows.k + i * k_stride_);
    }
  }
  void load_values(const Columns& columns, const TokenBlock& block, BlockRows& rows) const {
    for (std::int64_t i = 0; i < block.count; ++i) {
      const std::int64_t first = (block[i] * p_.v_heads + block.head) * p_.Dv + columns.first;
      load_padded_row(kernels_, p_.v, first, columns.count, rows.v + i * whole_vectors(columns.count));
    }
  }

  /// `is_first` says whether the state is that before the first token.
  void run_block(const Columns& columns, const TokenBlock& block, bool is_first, BlockRows& rows) const {
    const std::int64_t v_stride = whole_vectors(columns.count);
    std::byte* const next = next_state(columns, block.head);
    const std::byte* state = next;
    std::int64_t state_stride = next_stride();
    if (is_first && !p_.state.empty()) {
      state = p_.state.row(columns.batch * p_.v_heads + block.head, columns.first);
      state_stride = p_.state.row_stride();
    } else if (is_first) {
      std::fill_n(next, columns.count * next_stride(), std::byte{0});
    }
    const float skip = recurrence_.load_skip(kernels_, block.head);
    for (std::int64_t first = 0; first < columns.count; first += lanes) {
      recurrence_.kernel({.state = state + first * state_stride,
                          .state_stride = state_stride,
                          .next_state = next + first * next_stride(),
                          .next_stride = next_stride(),
                          .columns = static_cast<int>(std::min<std::int64_t>(lanes, columns.count - first)),
                          .Dk = p_.Dk,
                          .tokens = block.count,
                          .q = rows.q,
                          .k = rows.k,
                          .g = rows.g,
                          .beta = rows.beta.data(),
                          .v = rows.v + first,
                          .v_stride = v_stride,
                          .skip = skip});
    }
    for (std::int64_t i = 0; i < block.count; ++i) {
      kernels_.round(rows.v + i * v_stride, columns.count, p_.y_dtype, y_of(columns, block[i], block.head));
    }
  }

  [[nodiscard]] std::int64_t y_size() const { return static_cast<std::int64_t>(size_of(p_.y_dtype)); }
  [[nodiscard]] std::byte* y_of(const Columns& columns, std::int64_t token, std::int64_t head) const {
    return p_.y + ((token * p_.v_heads + head) * p_.Dv + columns.first) * y_size();
  }

  const RecurrenceProblem& p_;
  const Recurrence& recurrence_;
  const KernelTable& kernels_;
  std::int64_t k_stride_;  // elements between rows of q and k
  // The items of a head of q and k: some of its heads of v, and of these some columns.
  std::int64_t item_heads_;
  std::int64_t items_of_k_head_;
  std::int64_t item_columns_;
  std::int64_t items_of_columns_;
};

}  // namespace

void load_padded_row(const KernelTable& kernels, const MatrixBatch& matrices, std::int64_t first, std::int64_t count,
                     float* row) {
  load_floats(kernels, matrices, first, count, row);
  std::fill(row + count, row + whole_vectors(count), 0.0F);
}

void run_recurrence(const RecurrenceProblem& problem, const Recurrence& recurrence) {
  const double elements =
      static_cast<double>(problem.batch * problem.v_heads) * static_cast<double>(problem.Dv) * static_cast<double>(problem.Dk);
  CallContext call(elements * (static_cast<double>(problem.tokens) * multiply_adds_of_a_token + multiply_adds_of_an_element),
                   problem.threads);
  const RecurrenceItems items(problem, recurrence, call.kernels(), call.threads());
  call.use_at_most(items.count());
  call.add_phase(items.count(), [](std::int64_t) { return 1; }, [&](std::int64_t item, std::int64_t) { items.run(item); });
  call.run();
}

}  // namespace gqmm::cpu
