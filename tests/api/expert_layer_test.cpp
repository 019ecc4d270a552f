// ExpertLayer on ranks that are threads of this process: the bits of one rank, and mistakes that every rank hears of.
#include "dispatch_test_support.hpp"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>

namespace gqmm::test {

namespace {

/// What the ranks of a group share. A rank that does not come, or that aborts, makes the others' exchanges fail.
class Group {
 public:
  struct Post {
    std::span<const array> arrays;
    std::vector<std::int64_t> ends;  // of the rows for each rank
  };
  explicit Group(int ranks) : posts_(static_cast<std::size_t>(ranks)) {}

  [[nodiscard]] int ranks() const { return static_cast<int>(posts_.size()); }
  Post& post(int rank) { return posts_[static_cast<std::size_t>(rank)]; }
  /// Waits until all ranks are here.
  void meet() {
    std::unique_lock lock(mutex_);
    const int round = round_;
    if (++here_ == ranks()) {
      here_ = 0;
      ++round_;
      changed_.notify_all();
    }
    const bool came = changed_.wait_for(lock, std::chrono::minutes(1), [&] { return round_ != round || !aborted_.empty(); });
    if (!came || !aborted_.empty()) {
      throw std::runtime_error(came ? aborted_ : "a rank did not come");
    }
  }
  void abort(std::string_view why) {
    const std::lock_guard lock(mutex_);
    if (aborted_.empty()) {
      aborted_ = why;
    }
    changed_.notify_all();
  }

 private:
  std::vector<Post> posts_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int here_ = 0;
  int round_ = 0;
  std::string aborted_;
};

class ThreadEngine : public DispatchEngine {
 public:
  ThreadEngine(std::shared_ptr<Group> group, int rank) : group_(std::move(group)), rank_(rank) {}

  int exchanges_before_failure = -1;

  [[nodiscard]] int rank() const noexcept override { return rank_; }
  [[nodiscard]] int ranks() const noexcept override { return group_->ranks(); }
  std::vector<array> all_to_all(std::span<const array> arrays, std::span<const std::int64_t> send_counts,
                                std::span<const std::int64_t> recv_counts) override {
    if (exchanges_before_failure-- == 0) {
      throw std::bad_alloc();
    }
    std::vector<std::int64_t> ends(send_counts.size());
    std::partial_sum(send_counts.begin(), send_counts.end(), ends.begin());
    for (const array& a : arrays) {
      EXPECT_TRUE(a.is_row_major());
      EXPECT_EQ(a.dim(0), ends.back());
    }
    group_->post(rank_) = {.arrays = arrays, .ends = std::move(ends)};
    group_->meet();
    std::vector<array> received;
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      received.push_back(gather(i, recv_counts));
    }
    group_->meet();
    return received;
  }
  void abort(std::string_view why) override { group_->abort(why); }

 private:
  /// The rows of array `i` that all ranks have for this one.
  [[nodiscard]] array gather(std::size_t i, std::span<const std::int64_t> recv_counts) const {
    Shape shape = group_->post(rank_).arrays[i].shape();
    shape.front() = std::accumulate(recv_counts.begin(), recv_counts.end(), std::int64_t{0});
    array all = array::empty(shape, group_->post(rank_).arrays[i].dtype());
    std::byte* to = all.mutable_bytes();
    for (int source = 0; source < ranks(); ++source) {
      const Group::Post& post = group_->post(source);
      const array& from = post.arrays[i];
      const std::int64_t begin = rank_ == 0 ? 0 : post.ends[static_cast<std::size_t>(rank_ - 1)];
      const std::int64_t count = post.ends[static_cast<std::size_t>(rank_)] - begin;
      EXPECT_EQ(count, recv_counts[static_cast<std::size_t>(source)]);
      EXPECT_EQ(from.dtype(), all.dtype());
      EXPECT_EQ(Shape(from.shape().begin() + 1, from.shape().end()), Shape(shape.begin() + 1, shape.end()));
      to = std::copy_n(from.bytes() + begin * from.stride(0), count * from.stride(0), to);
    }
    return all;
  }

  std::shared_ptr<Group> group_;
  int rank_;
};

/// Runs work(engine) on every rank of a group, and returns what each has thrown, or "".
template <class Work>
std::vector<std::string> run(int ranks, const Work& work) {
  const auto group = std::make_shared<Group>(ranks);
  std::vector<std::string> errors(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        work(std::make_shared<ThreadEngine>(group, rank));
      } catch (const std::exception& error) {
        errors[static_cast<std::size_t>(rank)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return errors;
}

using Errors = std::vector<std::string>;

TEST(ExpertLayer, AnyNumberOfRanksHasTheBitsOfOne) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    const int ranks = 1 + static_cast<int>(seed % 8);
    const DividedLayer divided = random_divided_layer(seed, ranks);
    const Errors errors = run(ranks, [&](const std::shared_ptr<DispatchEngine>& engine) {
      const int rank = engine->rank();
      const ExpertLayer layer = divided.part(engine, (seed + static_cast<unsigned>(rank)) % 3 == 0);
      for (int call = 0; call < 2; ++call) {
        EXPECT_EQ(memory_of(divided.divided(layer, rank)), memory_of(divided.expected(rank)))
            << "seed " << seed << ", rank " << rank << " of " << ranks;
      }
    });
    ASSERT_EQ(errors, Errors(static_cast<std::size_t>(ranks))) << "seed " << seed;
    ASSERT_FALSE(HasFailure());
  }
}

TEST(ExpertLayer, LeadingDimensionsStridesAndTypesOfIdsAreFree) {
  RandomRanks random(1);
  const Layer whole = random.layer(4, 32, 32);
  const ExpertOwners owners = ExpertOwners::round_robin(4, 2);
  const array wide = random.normal({2, 3, 64}, Dtype::bfloat16);
  const array x = array::borrow(wide.bytes(), {2, 3, 32}, Dtype::bfloat16, wide.strides(), wide.owner());
  const array ids = integers<std::uint8_t>({2, 3, 2}, {1, 0, 1, 3, 2, 0, 3, 2, 1, 0, 2, 3}, Dtype::uint8);
  const array weights = random.normal({2, 3, 2}, Dtype::float16);
  const array expected = moe_ffn(x, ids, weights, whole.gate, whole.up, whole.down, whole.options);
  const Errors errors = run(2, [&](const std::shared_ptr<DispatchEngine>& engine) {
    const DividedLayer divided = {.owners = owners, .whole = whole, .tokens = {}, .shared_scales = {}};
    EXPECT_EQ(memory_of(divided.part(engine, false)(x, ids, weights)), memory_of(expected));
  });
  EXPECT_EQ(errors, Errors(2));
}

/// Three ranks with two experts each, and a token on each rank.
class ThreeRanks {
 public:
  ThreeRanks() : random_(7) {
    for (int rank = 0; rank < 3; ++rank) {
      divided_.tokens.push_back(
          {random_.normal({1, 32}, Dtype::float32), int64s({1, 2}, {rank, 5 - rank}), random_.normal({1, 2}, Dtype::float32)});
      divided_.shared_scales.emplace_back();
    }
  }

  DividedLayer& divided() { return divided_; }
  /// Makes the layer after change(layer, owners) on rank 1 alone.
  template <class Change>
  Errors make(const Change& change) {
    return run(3, [&](const std::shared_ptr<DispatchEngine>& engine) {
      Layer part = part_of(divided_.whole, divided_.owners.experts_of(engine->rank()), false);
      ExpertOwners owners = divided_.owners;
      if (engine->rank() == 1) {
        change(part, owners);
      }
      const ExpertLayer layer(engine, part.gate, part.up, part.down, owners, part.options);
    });
  }
  /// Calls the layer after change(tokens) on rank 1 alone, and then as it is.
  template <class Change>
  Errors call(const Change& change) {
    Errors errors(3);
    const Errors none = run(3, [&](const std::shared_ptr<DispatchEngine>& engine) {
      const ExpertLayer layer = divided_.part(engine, false);
      Rank tokens = divided_.tokens[static_cast<std::size_t>(engine->rank())];
      if (engine->rank() == 1) {
        change(tokens);
      }
      try {
        std::ignore = layer(tokens.x, tokens.topk_ids, tokens.topk_weights);
      } catch (const std::invalid_argument& error) {
        errors[static_cast<std::size_t>(engine->rank())] = error.what();
      }
      EXPECT_EQ(memory_of(divided_.divided(layer, engine->rank())), memory_of(divided_.expected(engine->rank())));
    });
    EXPECT_EQ(none, Errors(3)) << "ranks are no longer in step";
    return errors;
  }

 private:
  RandomRanks random_;
  DividedLayer divided_ = {.owners = ExpertOwners::contiguous(6, 3),
                           .whole = {.gate = affine_weights(1, {6}, 64, 32),
                                     .up = affine_weights(2, {6}, 64, 32),
                                     .down = affine_weights(3, {6}, 32, 64),
                                     .options = {}},
                           .tokens = {},
                           .shared_scales = {}};
};

TEST(ExpertLayer, AMistakeOnOneRankIsAnErrorOnAllAndTheNextCallIsRight) {
  ThreeRanks ranks;
  const std::string others = "[ExpertLayer] rank 1 refused its arguments; its own error says why";
  EXPECT_EQ(ranks.call([](Rank& tokens) { tokens.topk_ids = int64s({1, 2}, {0, 6}); }),
            (Errors{others,
                    "[DispatchPlan] topk_ids[0, 1] = 6 is out of range: there are 6 experts, so ids must be below that, or "
                    "negative for a slot of nobody",
                    others}));
  EXPECT_EQ(ranks.call([](Rank& tokens) { tokens.x = floats({1, 2}, {0, 0}); })[0], others);
  EXPECT_EQ(ranks.call([](Rank& tokens) { tokens.topk_weights = floats({1, 1}, {0}); })[2], others);
  EXPECT_EQ(ranks.call([](Rank&) {}), Errors(3));
}

TEST(ExpertLayer, CallsThatDifferBetweenRanksAreErrorsOnAll) {
  ThreeRanks ranks;
  EXPECT_EQ(ranks.call([](Rank& tokens) {
    tokens.topk_ids = int64s({1, 1}, {0});
    tokens.topk_weights = floats({1, 1}, {1});
  }),
            Errors(3,
                   "[ExpertLayer] rank 1 has topk_ids with k = 1, but rank 0 with k = 2; all ranks must choose as many experts "
                   "for a token"));
  EXPECT_EQ(ranks.call([](Rank& tokens) { tokens.x = Generator(1).normal({1, 32}, Dtype::bfloat16); }),
            Errors(3,
                   "[ExpertLayer] rank 1 has x of type bfloat16, but rank 0 of type float32; convert x to one type on all "
                   "ranks"));
}

TEST(ExpertLayer, LayersThatDifferBetweenRanksAreErrorsOnAll) {
  ThreeRanks ranks;
  EXPECT_EQ(ranks.make([](Layer&, ExpertOwners&) {}), Errors(3));
  const auto differs = [](const std::string& what) {
    return Errors(3, "[ExpertLayer] rank 1 has another " + what + " than rank 0; make the layer alike on all ranks");
  };
  EXPECT_EQ(ranks.make([](Layer&, ExpertOwners& owners) { owners = ExpertOwners({{0}, {0}, {1}, {1}, {2}, {0}}); }),
            differs("owner map"));
  const std::vector<void (*)(Layer&, ExpertOwners&)> other_weights = {
      [](Layer& layer, ExpertOwners&) {
        std::get<QuantizedWeights>(layer.gate).scales = Generator(1).normal({2, 64, 1}, Dtype::float16);
      },
      [](Layer& layer, ExpertOwners&) { layer.gate = Generator(1).normal({2, 64, 32}); },
      [](Layer& layer, ExpertOwners&) { layer.options.down_bias = Generator(1).normal({2, 32}); },
      [](Layer& layer, ExpertOwners&) {
        layer.gate = affine_weights(1, {2}, 32, 32);
        layer.up = affine_weights(1, {2}, 32, 32);
        layer.down = affine_weights(1, {2}, 32, 32);
      },
      [](Layer& layer, ExpertOwners&) {
        layer.options.shared = {
            .gate = Generator(1).normal({64, 32}), .up = Generator(2).normal({64, 32}), .down = Generator(3).normal({32, 64})};
      }};
  for (std::size_t i = 0; i + 1 < other_weights.size(); ++i) {
    EXPECT_EQ(ranks.make(other_weights[i]), differs("shape or format of weights")) << i;
  }
  EXPECT_EQ(
      ranks.make(other_weights.back())[0],
      "[ExpertLayer] rank 1 has another shape or format of weights than rank 0; rank 1 has another set of options than rank 0; "
      "make the layer alike on all ranks");
  const std::vector<void (*)(Layer&, ExpertOwners&)> other_options = {
      [](Layer& layer, ExpertOwners&) { layer.options.activation = GeGLU(); },
      [](Layer& layer, ExpertOwners&) { layer.options.activation = SwiGLU{.limit = 7.0F}; },
      [](Layer& layer, ExpertOwners&) { layer.options.gate_up_order = GateUpOrder::up_gate; },
      [](Layer& layer, ExpertOwners&) { layer.options.precision = Precision::fast; }};
  for (std::size_t i = 0; i < other_options.size(); ++i) {
    EXPECT_EQ(ranks.make(other_options[i]), differs("set of options")) << i;
  }
  EXPECT_EQ(ranks.make([](Layer& layer, ExpertOwners&) { layer = part_of(layer, {0, 1}, true); }), Errors(3)) << "packed";
}

TEST(ExpertLayer, ARankThatCannotMakeItsLayerTellsTheOthers) {
  ThreeRanks ranks;
  const std::string others = "[ExpertLayer] rank 1 refused its arguments; its own error says why";
  const auto expect = [&](const std::string& own, const auto& change) {
    EXPECT_EQ(ranks.make(change), (Errors{others, own, others}));
  };
  expect("[ExpertLayer] gate has 1 experts but rank 1 holds 2; pass those of owners.experts_of(1), in their order",
         [](Layer& layer, ExpertOwners&) { layer = part_of(layer, {0}, false); });
  expect("[DispatchPlan] owners: expert 0 belongs to rank 3, but there are 3 ranks, 0 ... 2",
         [](Layer&, ExpertOwners& owners) { owners = ExpertOwners(int64s({6}, {3, 0, 1, 1, 2, 2})); });
  expect("[ExpertLayer] gate: the dense array has shape (4,); pass (E, outputs, inputs)",
         [](Layer& layer, ExpertOwners&) { layer.gate = floats({4}, {1, 2, 3, 4}); });
  expect("[ExpertLayer] options has router_weight_on_input; multiply x by the weights before the call",
         [](Layer& layer, ExpertOwners&) { layer.options.router_weight_on_input = true; });
  expect("[ExpertLayer] options has missing; leave it out, since slots with negative ids are zero here",
         [](Layer& layer, ExpertOwners&) { layer.options.missing = Missing::zero; });
  expect("[ExpertLayer] options has local_experts; leave it out, since owners says which experts a rank holds",
         [](Layer& layer, ExpertOwners&) { layer.options.local_experts = {.first = 2, .count = 2}; });
  expect("[ExpertLayer] options has out; leave it out, since each call makes its result",
         [](Layer& layer, ExpertOwners&) { layer.options.out = array::empty({1, 32}, Dtype::float32); });
  expect("[ExpertLayer] options has a scale of shared experts; pass shared_scale to each call", [](Layer& layer, ExpertOwners&) {
    layer.options.shared = {.gate = Generator(1).normal({64, 32}),
                            .up = Generator(2).normal({64, 32}),
                            .down = Generator(3).normal({32, 64}),
                            .scale = floats({1}, {1})};
  });
}

TEST(ExpertLayer, AScaleWithoutSharedExpertsIsRefused) {
  ThreeRanks ranks;
  ranks.divided().shared_scales[1] = floats({1}, {2});
  const std::string others = "[ExpertLayer] rank 1 refused its arguments; its own error says why";
  const Errors errors = run(3, [&](const std::shared_ptr<DispatchEngine>& engine) {
    std::ignore = ranks.divided().divided(ranks.divided().part(engine, false), engine->rank());
  });
  EXPECT_EQ(errors,
            (Errors{others, "[ExpertLayer] shared_scale is given but the layer has no shared experts; leave it out", others}));
  EXPECT_THROW(ExpertLayer(nullptr, array(), std::nullopt, array(), ranks.divided().owners), std::invalid_argument);
}

TEST(ExpertLayer, AnExceptionInTheMiddleOfACallEndsTheGroup) {
  ThreeRanks ranks;
  // Of the exchanges of a layer and a call: at the start, of headers, of rows, of results.
  for (int exchange = 0; exchange < 4; ++exchange) {
    const Errors errors = run(3, [&](const std::shared_ptr<ThreadEngine>& engine) {
      engine->exchanges_before_failure = engine->rank() == 2 ? exchange : -1;
      std::ignore = ranks.divided().divided(ranks.divided().part(engine, false), engine->rank());
    });
    const std::string others = "[ExpertLayer] in the middle of a call: std::bad_alloc";
    EXPECT_EQ(errors, (Errors{others, others, "std::bad_alloc"})) << "exchange " << exchange;
  }
}

}  // namespace

}  // namespace gqmm::test
