// Expert parallelism without an engine: ranks simulated in one process, what goes where, and what is refused.
#include "dispatch_test_support.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

namespace gqmm::test {

using namespace detail;

namespace {

std::vector<std::int64_t> integers_of(const array& a) {
  std::vector<std::int64_t> values;
  for (std::int64_t i = 0; i < a.size(); ++i) {
    values.push_back(a.dtype() == Dtype::int32 ? a.data<std::int32_t>()[i] : a.data<std::int64_t>()[i]);
  }
  return values;
}

/// Rows [first, last) of an array with two dimensions.
array rows_of(const array& a, std::int64_t first, std::int64_t last) {
  return array::borrow(a.bytes() + first * a.stride(0), {last - first, a.dim(1)}, a.dtype(), {}, a.owner());
}

/// The rows of arrays one below the other.
array joined(const std::vector<array>& parts) {
  std::int64_t rows = 0;
  for (const array& part : parts) {
    rows += part.dim(0);
  }
  array all = array::empty({rows, parts.front().dim(1)}, parts.front().dtype());
  std::byte* to = all.mutable_bytes();
  for (const array& part : parts) {
    to = std::copy_n(part.bytes(), part.nbytes(), to);
  }
  return all;
}

/// Cuts the rows of an array into `counts` of them.
std::vector<array> cut(const array& a, const array& counts) {
  std::vector<array> parts;
  std::int64_t first = 0;
  for (const std::int64_t count : integers_of(counts)) {
    parts.push_back(rows_of(a, first, first + count));
    first += count;
  }
  EXPECT_EQ(first, a.dim(0));
  return parts;
}

/// An exchange: what each rank sends to each, [from][to], becomes what each receives from all.
std::vector<std::vector<array>> exchanged(const std::vector<std::vector<array>>& sent) {
  std::vector<std::vector<array>> received(sent.size());
  for (const std::vector<array>& parts : sent) {
    for (std::size_t to = 0; to < parts.size(); ++to) {
      received[to].push_back(parts[to]);
    }
  }
  return received;
}

/// One layer on simulated ranks. `layer(rank, rows, ids)` computes slots from rows and from positions among the rank's experts.
template <class Layer>
std::vector<array> run(const std::vector<Rank>& ranks, const ExpertOwners& owners, Layer layer) {
  const int count = static_cast<int>(ranks.size());
  std::vector<DispatchPlan> plans;
  std::vector<std::vector<array>> rows;
  std::vector<std::vector<array>> ids;
  for (int rank = 0; rank < count; ++rank) {
    const Rank& of = ranks[static_cast<std::size_t>(rank)];
    plans.emplace_back(of.topk_ids, owners, rank, count, owners.num_experts());
    rows.push_back(cut(pack_rows(plans.back(), of.x), plans.back().send_counts()));
    ids.push_back(cut(plans.back().send_ids(), plans.back().send_counts()));
  }
  rows = exchanged(rows);
  ids = exchanged(ids);
  std::vector<std::vector<array>> results;
  for (int rank = 0; rank < count; ++rank) {
    const auto at = static_cast<std::size_t>(rank);
    const array came = joined(ids[at]);
    std::vector<std::int64_t> row_counts;
    for (const array& part : rows[at]) {
      row_counts.push_back(part.dim(0));
    }
    const array slots = layer(rank, joined(rows[at]), local_ids(came, owners, rank));
    results.push_back(cut(pack_results(slots, came), return_counts(came, int64s({count}, row_counts))));
  }
  results = exchanged(results);
  std::vector<array> y;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    for (std::size_t from = 0; from < ranks.size(); ++from) {
      EXPECT_EQ(results[rank][from].dim(0), integers_of(plans[rank].recv_counts())[from]);
    }
    y.push_back(combine(plans[rank], unpack(plans[rank], joined(results[rank])), ranks[rank].topk_weights));
  }
  return y;
}

/// Slots of a layer that is cheap, and where each slot depends on the row and the expert: expert · row + expert.
array cheap_layer(const array& rows, const array& ids, const std::vector<std::int64_t>& experts) {
  const std::int64_t k = ids.dim(1);
  const std::int64_t H = rows.dim(1);
  array slots = array::empty({rows.dim(0), k, H}, Dtype::float32);
  for (std::int64_t i = 0; i < ids.size(); ++i) {
    const std::int64_t id = integers_of(ids)[static_cast<std::size_t>(i)];
    for (std::int64_t h = 0; h < H; ++h) {
      const float factor = id < 0 ? 0 : static_cast<float>(experts[static_cast<std::size_t>(id)] + 1);
      slots.mutable_data<float>()[i * H + h] = factor * rows.data<float>()[i / k * H + h] + factor;
    }
  }
  return slots;
}

std::vector<std::int64_t> all_experts(std::int64_t count) {
  std::vector<std::int64_t> experts(static_cast<std::size_t>(count));
  std::iota(experts.begin(), experts.end(), 0);
  return experts;
}

TEST(Dispatch, SimulatedRanksHaveTheBitsOfOne) {
  for (unsigned seed = 0; seed < 3000; ++seed) {
    RandomRanks random(seed);
    const int count = seed % 50 == 0 ? 64 : 2 + random.below(seed % 5 == 0 ? 15 : 4);
    const int E = 1 + random.below(24);
    const std::int64_t k = 1 + random.below(5);
    const std::int64_t H = 1 + random.below(4);
    const ExpertOwners owners = random.owners(E, count);
    std::vector<Rank> ranks;
    for (int rank = 0; rank < count; ++rank) {
      ranks.push_back(random.rank(random.below(3) == 0 ? 0 : random.below(9), k, H, E));
    }
    const std::vector<array> y = run(ranks, owners, [&](int rank, const array& rows, const array& ids) {
      return cheap_layer(rows, ids, owners.experts_of(rank));
    });
    for (int rank = 0; rank < count; ++rank) {
      const Rank& of = ranks[static_cast<std::size_t>(rank)];
      const array expected = moe_combine(cheap_layer(of.x, of.topk_ids, all_experts(E)), of.topk_weights);
      ASSERT_EQ(memory_of(y[static_cast<std::size_t>(rank)]), memory_of(expected)) << "seed " << seed << ", rank " << rank;
    }
  }
}

TEST(Dispatch, AWholeLayerHasTheBitsOfOneRank) {
  constexpr int E = 8;
  const Weights gate = affine_weights(1, {E}, 64, 96);
  const Weights up = affine_weights(2, {E}, 64, 96);
  const Weights down = affine_weights(3, {E}, 96, 64);
  for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16}) {
    for (const ExpertOwners& owners : {ExpertOwners::contiguous(E, 3), ExpertOwners::round_robin(E, 3),
                                       ExpertOwners({{0}, {1, 2}, {2}, {0, 1, 2}, {1}, {2, 0}, {0}, {1}})}) {
      Generator random(4);
      std::vector<Rank> ranks;
      for (const std::int64_t T : {5, 0, 9}) {
        std::vector<std::int64_t> ids;
        for (std::int64_t i = 0; i < T * 3; ++i) {
          ids.push_back(i % 7 == 6 ? -1 : i * 5 % E);
        }
        ranks.push_back({random.normal({T, 96}, dtype), int64s({T, 3}, ids), random.normal({T, 3}, dtype)});
      }
      const std::vector<array> y = run(ranks, owners, [&](int rank, const array& rows, const array& ids) {
        const std::vector<std::int64_t> experts = owners.experts_of(rank);
        return moe_ffn(rows, ids, std::nullopt, part_of(gate, experts), part_of(up, experts), part_of(down, experts),
                       {.missing = Missing::zero});
      });
      for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
        const Rank& of = ranks[rank];
        EXPECT_EQ(memory_of(y[rank]),
                  memory_of(moe_ffn(of.x, of.topk_ids, of.topk_weights, gate, up, down, {.missing = Missing::zero})));
      }
    }
  }
}

TEST(Dispatch, APlanSendsATokenOnceToARank) {
  // Experts 0, 1 on rank 0, 2, 3 on rank 1, 4, 5 on rank 2.
  const DispatchPlan plan(int64s({3, 3}, {5, 0, 4, 1, 0, -1, 2, 5, 3}), ExpertOwners::contiguous(6, 3), 0, 3, 6);
  using Values = std::vector<std::int64_t>;
  EXPECT_EQ(integers_of(plan.send_counts()), (Values{2, 1, 2}));
  EXPECT_EQ(integers_of(plan.recv_counts()), (Values{3, 2, 3}));
  EXPECT_EQ(integers_of(plan.send_rows()), (Values{0, 1, 2, 0, 2}));
  EXPECT_EQ(integers_of(plan.send_ids()), (Values{-1, 0, -1, 1, 0, -1, 2, -1, 3, 5, -1, 4, -1, 5, -1}));
  EXPECT_EQ(integers_of(plan.slot_of()), (Values{1, 3, 4, 6, 8, 0, 2, 7}));
  EXPECT_EQ(plan.shape(), (Shape{3, 3}));
  EXPECT_EQ(plan.send_ids().dtype(), Dtype::int32);
}

TEST(Dispatch, ReplicasTakeTurnsByTokenAndSlot) {
  const DispatchPlan plan(int64s({4, 2}, {0, 0, 0, 0, 0, 0, 0, 0}), ExpertOwners({{2, 0, 1}}), 1, 3, 1);
  // Slot j of token t goes to number (t + j) mod 3 of the ranks 2, 0, 1.
  EXPECT_EQ(integers_of(plan.slot_of()), (std::vector<std::int64_t>{1, 2, 7, 3, 4, 0, 5, 6}));
}

TEST(Dispatch, StridesLeadingDimensionsAndTypesAreFree) {
  Generator random(1);
  const array x = random.normal({2, 3, 4}, Dtype::bfloat16);
  const array columns = array::borrow(x.bytes(), {2, 3, 2}, Dtype::bfloat16, {24, 8, 4}, x.owner());
  const array ids = integers<std::uint8_t>({2, 3, 1}, {1, 0, 1, 1, 0, 0}, Dtype::uint8);
  const DispatchPlan plan(ids, ExpertOwners::round_robin(2, 2), 0, 2, 2);
  const array rows = pack_rows(plan, columns, {.threads = 2});
  EXPECT_EQ(rows.shape(), (Shape{6, 2}));
  const std::vector<float> all = values_of(x);
  const std::vector<float> packed = values_of(rows);
  const std::vector<std::int64_t> tokens = {1, 4, 5, 0, 2, 3};
  for (std::size_t row = 0; row < tokens.size(); ++row) {
    EXPECT_EQ(packed[2 * row], all[static_cast<std::size_t>(tokens[row]) * 4]);
    EXPECT_EQ(packed[2 * row + 1], all[static_cast<std::size_t>(tokens[row]) * 4 + 2]);
  }
  EXPECT_EQ(unpack(plan, rows).shape(), (Shape{2, 3, 1, 2}));
  // No leading dimension: one token.
  const DispatchPlan token(int64s({2}, {1, 0}), ExpertOwners::round_robin(2, 2), 0, 2, 2);
  EXPECT_EQ(pack_rows(token, floats({2}, {3, 4})).shape(), (Shape{2, 2}));
}

TEST(Dispatch, NoTokensAndNoSlotsAreNoError) {
  const ExpertOwners owners = ExpertOwners::contiguous(4, 2);
  const DispatchPlan none(int64s({0, 3}, {}), owners, 1, 2, 4);
  EXPECT_EQ(pack_rows(none, floats({0, 8}, {})).shape(), (Shape{0, 8}));
  EXPECT_EQ(combine(none, unpack(none, floats({0, 8}, {})), floats({0, 3}, {})).shape(), (Shape{0, 8}));
  const DispatchPlan nobody(int64s({2, 2}, {-1, -5, -1, -1}), owners, 1, 2, 4);
  EXPECT_EQ(values_of(unpack(nobody, floats({0, 1}, {}))), (std::vector<float>(4, 0.0F)));
  EXPECT_EQ(DispatchPlan(int64s({2, 0}, {}), owners, 0, 2, 4).send_ids().shape(), (Shape{0, 0}));
}

TEST(Dispatch, OwnersByLoadAreEvenAndHotExpertsGetReplicas) {
  const array counts = int64s({8}, {100, 1, 1, 1, 40, 1, 1, 1});
  const ExpertOwners owners = ExpertOwners::by_load(counts, 4, 4);
  EXPECT_EQ(owners.ranks_of(0).size(), 4U);  // never more than one on a rank, so the fourth extra one is of expert 4
  EXPECT_EQ(owners.ranks_of(4).size(), 2U);
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_LE(owners.experts_of(rank).size(), 3U);
  }
  for (std::int64_t expert = 0; expert < 8; ++expert) {
    EXPECT_GE(owners.ranks_of(expert).size(), 1U);
  }
  EXPECT_EQ(ExpertOwners::by_load(int64s({6}, {0, 0, 0, 0, 0, 0}), 2, 1000).ranks_of(5).size(),
            2U);  // every rank has every expert
  EXPECT_EQ(ExpertOwners::by_load(int64s({0}, {}), 2, 3).num_experts(), 0);
}

TEST(Dispatch, ErrorsNameTheValueAndTheRemedy) {
  const ExpertOwners owners = ExpertOwners::contiguous(4, 2);
  const array ids = int64s({1, 2}, {0, 3});
  const auto message = [](const auto& call) {
    try {
      call();
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(
      message([&] { return DispatchPlan(int64s({1, 2}, {0, 4}), owners, 0, 2, 4); }),
      "[DispatchPlan] topk_ids[0, 1] = 4 is out of range: there are 4 experts, so ids must be below that, or negative for a "
      "slot of nobody");
  EXPECT_EQ(message([&] { return DispatchPlan(ids, owners, 2, 2, 4); }), "[DispatchPlan] rank = 2 is outside 0 ... 1");
  EXPECT_EQ(message([&] { return DispatchPlan(ids, owners, 0, 0, 4); }),
            "[DispatchPlan] ranks = 0 is not positive; pass the number of ranks");
  EXPECT_EQ(message([&] { return DispatchPlan(ids, owners, 0, 2, 5); }),
            "[DispatchPlan] num_experts = 5 but owners has 4 experts; they must be equal");
  EXPECT_EQ(message([&] { return DispatchPlan(ids, owners, 0, 1, 4); }),
            "[DispatchPlan] owners: expert 2 belongs to rank 1, but there are 1 ranks, 0 ... 0");
  EXPECT_EQ(message([&] { return DispatchPlan(floats({1, 1}, {0}), owners, 0, 2, 4); }),
            "[DispatchPlan] topk_ids has type float32; convert it to an integer type");
  EXPECT_EQ(message([&] { return ExpertOwners(int64s({2}, {0, -1})); }),
            "[ExpertOwners] owners[1] = -1 is out of range: it must be 0 or more");
  EXPECT_EQ(message([&] { return local_ids(integers<std::uint64_t>({1}, {~std::uint64_t{0}}, Dtype::uint64), owners, 0); }),
            "[local_ids] ids[0] = 18446744073709551615 is out of range: it must be below 9223372036854775807");
  EXPECT_EQ(message([&] { return ExpertOwners({{0}, {}}); }),
            "[ExpertOwners] owners[1] is empty; each expert needs a rank that holds it");
  EXPECT_EQ(message([&] { return ExpertOwners({{0, 1, 0}}); }),
            "[ExpertOwners] owners[0] has rank 0 twice; a rank holds an expert once");
  const DispatchPlan plan(ids, owners, 0, 2, 4);
  EXPECT_EQ(message([&] { return pack_rows(plan, floats({2, 1}, {0, 0})); }),
            "[pack_rows] x has shape (2, 1) but topk_ids has shape (1, 2); x must be (…, H) with the same leading dimensions");
  EXPECT_EQ(message([&] { return unpack(plan, floats({3, 1}, {0, 0, 0})); }),
            "[unpack] received has shape (3, 1); it must be (2, H), the results that recv_counts counts");
  EXPECT_EQ(message([&] { return local_ids(ids, owners, 0); }),
            "[local_ids] ids[0, 1] = 3 is no expert of rank 0; check that all ranks have the same owner map");
  EXPECT_EQ(message([&] { return return_counts(ids, int64s({2}, {1, 1})); }),
            "[return_counts] row_counts adds up to more rows than the 1 of ids");
  EXPECT_EQ(message([&] { return return_counts(ids, int64s({1}, {0})); }),
            "[return_counts] row_counts adds up to fewer rows than the 1 of ids");
  EXPECT_EQ(message([&] { return combine(plan, floats({1, 2, 1}, {0, 0}), floats({2}, {0, 0})); }),
            "[combine] topk_weights has shape (2,) but topk_ids has shape (1, 2); they must be equal");
}

}  // namespace
}  // namespace gqmm::test
