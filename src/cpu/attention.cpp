#include "cpu/attention.hpp"

#include "cpu/attention_rows.hpp"
#include "cpu/call_context.hpp"
#include "cpu/dispatch.hpp"

#include <algorithm>

namespace gqmm::cpu {
namespace {

/// Rows of an item whose keys and values are packed. Packing a block costs as much as about 10 rows.
constexpr std::int64_t most_rows = 512;
constexpr std::int64_t fewest_rows = 64;
/// Up to this number of groups of rows, keys and values that are not quantized are faster in place.
constexpr std::int64_t most_groups_in_place = 8;
/// Items for each thread, so that shares can be even.
constexpr std::int64_t items_per_thread = 4;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// How a call is divided into items. No choice changes a bit of the result.
class AttentionPlan {
 public:
  AttentionPlan(const AttentionProblem& problem, const AttentionKernels& attention, int threads) : problem_(problem) {
    const std::int64_t rows = problem.queries() * problem.group();
    const std::int64_t heads = problem.batch * problem.kv_heads;
    const bool few_rows = rows <= most_groups_in_place * attention.in_place_rows;
    in_place_ = few_rows && !problem.is_quantized();
    const std::int64_t wanted_items = items_per_thread * threads;
    std::int64_t rows_per_item = rows;
    if (!in_place_) {
      rows_per_item = std::clamp(divide_up(rows * heads, wanted_items), fewest_rows, most_rows);
    }
    queries_per_item_ = std::clamp<std::int64_t>(rows_per_item / problem.group(), 1, problem.queries());
    sets_of_head_ = divide_up(problem.queries(), queries_per_item_);
    for (std::int64_t b = 0; b < problem.batch; ++b) {
      const KeyBlocks blocks = blocks_of(problem, b);
      chunks_ = std::max(chunks_, chunk_of(blocks.end - 1) - chunk_of(blocks.begin) + 1);
    }
    // The states of all chunks take memory: little for few rows.
    splits_keys_ = threads > 1 && chunks_ > 1 && sets() < (few_rows ? wanted_items : threads);
  }

  [[nodiscard]] bool in_place() const { return in_place_; }
  /// Whether chunks of keys are items of their own. A second phase then merges their states.
  [[nodiscard]] bool splits_keys() const { return splits_keys_; }
  [[nodiscard]] std::int64_t sets() const { return problem_.batch * problem_.kv_heads * sets_of_head_; }
  /// The most chunks that a batch element has.
  [[nodiscard]] std::int64_t chunks() const { return chunks_; }
  [[nodiscard]] std::int64_t most_rows_of_set() const { return queries_per_item_ * problem_.group(); }

  /// The sets of one head come one behind the other, so a thread's next item often reads the same keys.
  [[nodiscard]] RowSet set(std::int64_t i) const {
    const std::int64_t head = i / sets_of_head_;
    const std::int64_t first = i % sets_of_head_ * queries_per_item_;
    return {.batch = head / problem_.kv_heads,
            .kv_head = head % problem_.kv_heads,
            .first_query = first,
            .queries = std::min(queries_per_item_, problem_.queries() - first)};
  }
  /// The keys that a set's last query sees at most; items cost about as much.
  [[nodiscard]] std::int64_t keys_of(const RowSet& set) const {
    if (problem_.mask_kind != MaskKind::causal) {
      return problem_.keys();
    }
    const std::int64_t end = problem_.keys() - problem_.queries() + set.first_query + set.queries;
    return std::clamp<std::int64_t>(end, 1, problem_.keys());
  }

 private:
  const AttentionProblem& problem_;
  bool in_place_ = false;
  bool splits_keys_ = false;
  std::int64_t queries_per_item_ = 1;
  std::int64_t sets_of_head_ = 1;
  std::int64_t chunks_ = 1;
};

/// Runs all chunks of a set's keys, and writes y.
void run_set(const AttentionCall& call, const RowSet& set) {
  const ThreadCached<AttentionScratch> scratch;
  AttentionRows rows(call, set, *scratch);
  const std::int64_t width = call.padded_width();
  const std::int64_t floats = RowStates::floats(rows.rows(), width);
  const RowStates chunks = RowStates::in(scratch->chunks.take<float>(floats), rows.rows());
  const KeyBlocks blocks = blocks_of(call.problem, set.batch);
  const std::int64_t first = chunk_of(blocks.begin);
  const std::int64_t last = chunk_of(blocks.end - 1);
  // Merging a single chunk into the state of no key gives that chunk.
  const bool merges = first != last || !call.problem.sinks.empty();
  const RowStates totals = merges ? RowStates::in(scratch->totals.take<float>(floats), rows.rows()) : chunks;
  for (std::int64_t row = 0; merges && row < rows.rows(); ++row) {
    rows.begin(row, totals.from(row, width));
  }
  for (std::int64_t c = first; c <= last; ++c) {
    chunks.clear(rows.rows(), width);
    rows.add_blocks(blocks_of_chunk_in(c, blocks), chunks);
    for (std::int64_t row = 0; merges && row < rows.rows(); ++row) {
      rows.merge(chunks.from(row, width), totals.from(row, width));
    }
  }
  for (std::int64_t row = 0; row < rows.rows(); ++row) {
    rows.finish(row, totals.from(row, width));
  }
}

/// The states of all chunks, as items of their own leave them.
class ChunkStates {
 public:
  ChunkStates(const AttentionCall& call, const AttentionPlan& plan, CallContext& context)
      : call_(call),
        plan_(plan),
        floats_(divide_up(RowStates::floats(plan.most_rows_of_set(), call.padded_width()), lanes) * lanes),
        memory_(context.take<float>(plan.sets() * plan.chunks(), floats_)) {}

  [[nodiscard]] std::int64_t items() const { return plan_.sets() * plan_.chunks(); }

  void run_chunk(std::int64_t item) const {
    const RowSet set = plan_.set(item / plan_.chunks());
    const KeyBlocks blocks = blocks_of(call_.problem, set.batch);
    const std::int64_t chunk = chunk_of(blocks.begin) + item % plan_.chunks();
    if (chunk > chunk_of(blocks.end - 1)) {
      return;  // this batch element has fewer chunks
    }
    const ThreadCached<AttentionScratch> scratch;
    AttentionRows rows(call_, set, *scratch);
    const RowStates states = state(item, rows.rows());
    states.clear(rows.rows(), call_.padded_width());
    rows.add_blocks(blocks_of_chunk_in(chunk, blocks), states);
  }

  void merge_set(std::int64_t i) const {
    const RowSet set = plan_.set(i);
    const KeyBlocks blocks = blocks_of(call_.problem, set.batch);
    const std::int64_t chunks = chunk_of(blocks.end - 1) - chunk_of(blocks.begin) + 1;
    const ThreadCached<AttentionScratch> scratch;
    AttentionRows rows(call_, set, *scratch);
    const std::int64_t width = call_.padded_width();
    const RowStates total = RowStates::in(scratch->totals.take<float>(RowStates::floats(1, width)), 1);
    for (std::int64_t row = 0; row < rows.rows(); ++row) {
      rows.begin(row, total);
      for (std::int64_t c = 0; c < chunks; ++c) {
        rows.merge(state(i * plan_.chunks() + c, rows.rows()).from(row, width), total);
      }
      rows.finish(row, total);
    }
  }

 private:
  [[nodiscard]] RowStates state(std::int64_t item, std::int64_t rows) const {
    return RowStates::in(memory_ + item * floats_, rows);
  }

  const AttentionCall& call_;
  const AttentionPlan& plan_;
  std::int64_t floats_;  // of one chunk's states
  float* memory_;
};

}  // namespace

void attend(const AttentionProblem& problem) {
  const double pairs = static_cast<double>(problem.batch * problem.q_heads) * static_cast<double>(problem.queries()) *
                       static_cast<double>(problem.keys());
  CallContext context(pairs * static_cast<double>(problem.depth() + problem.width()), problem.threads);
  const AttentionKernels& attention = active_layers().attention;
  const AttentionPlan plan(problem, attention, context.threads());
  const AttentionCall call = {
      .problem = problem, .kernels = context.kernels(), .attention = attention, .in_place = plan.in_place()};
  if (!plan.splits_keys()) {
    context.use_at_most(plan.sets());
    context.add_phase(
        plan.sets(), [&](std::int64_t i) { return plan.keys_of(plan.set(i)); },
        [&](std::int64_t i, std::int64_t) { run_set(call, plan.set(i)); });
    context.run();
    return;
  }
  const ChunkStates chunks(call, plan, context);
  context.add_phase(chunks.items(), [](std::int64_t) { return 1; }, [&](std::int64_t i, std::int64_t) { chunks.run_chunk(i); });
  context.add_phase(plan.sets(), [](std::int64_t) { return 1; }, [&](std::int64_t i, std::int64_t) { chunks.merge_set(i); });
  context.run();
}

}  // namespace gqmm::cpu
