// ExpertLayer on ranks that are threads of this process: the bits of one rank, and mistakes that every rank hears of.
#include "dispatch_test_support.hpp"

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <new>
#include <thread>

namespace gqmm::test {

namespace {

/// What the ranks of a group share. A rank that does not come, or that aborts, makes the others' exchanges fail.
class Group {
 public:
  /// What a rank sends in an exchange.
  struct Post {
    std::vector<array> arrays;
    std::vector<std::int64_t> ends;  // of the rows for each rank
  };
  explicit Group(int ranks) : ranks_(ranks) {}

  [[nodiscard]] int ranks() const { return ranks_; }
  void post(int exchange, int rank, Post post) {
    const std::lock_guard lock(mutex_);
    Exchange& of = exchanges_[exchange];
    of.posts.resize(static_cast<std::size_t>(ranks_));
    of.posts[static_cast<std::size_t>(rank)] = std::move(post);
    ++of.posted;
    changed_.notify_all();
  }
  /// What all ranks send, once the last has posted it.
  const std::vector<Post>& wait_for_posts(int exchange) {
    std::unique_lock lock(mutex_);
    wait(lock, [&] { return exchanges_[exchange].posted == ranks_; });
    return exchanges_[exchange].posts;
  }
  /// Waits until all ranks have read the posts: then their memory may change.
  void finish(int exchange) {
    std::unique_lock lock(mutex_);
    ++exchanges_[exchange].finished;
    changed_.notify_all();
    wait(lock, [&] { return exchanges_[exchange].finished == ranks_; });
  }
  void abort(std::string_view why) {
    const std::lock_guard lock(mutex_);
    if (aborted_.empty()) {
      aborted_ = why;
    }
    changed_.notify_all();
  }

 private:
  struct Exchange {
    std::vector<Post> posts;
    int posted = 0;
    int finished = 0;
  };

  template <class Done>
  void wait(std::unique_lock<std::mutex>& lock, const Done& done) {
    const bool came = changed_.wait_for(lock, std::chrono::minutes(1), [&] { return done() || !aborted_.empty(); });
    if (!came || !aborted_.empty()) {
      throw std::runtime_error(came ? aborted_ : "a rank did not come");
    }
  }

  int ranks_;
  std::map<int, Exchange> exchanges_;  // by their number
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string aborted_;
};

/// An engine that overlaps nothing.
class ThreadEngine : public DispatchEngine {
 public:
  ThreadEngine(std::shared_ptr<Group> group, int rank) : group_(std::move(group)), rank_(rank) {}

  int exchanges_before_failure = -1;
  std::string calls;  // since the last exchange by all_to_all: s of start, p of progress, w of wait

  [[nodiscard]] int rank() const noexcept override { return rank_; }
  [[nodiscard]] int ranks() const noexcept override { return group_->ranks(); }
  std::vector<array> all_to_all(std::span<const array> arrays, std::span<const std::int64_t> send_counts,
                                std::span<const std::int64_t> recv_counts) override {
    std::vector<array> received = begin(arrays, send_counts, recv_counts)->wait();
    calls.clear();
    return received;
  }
  void abort(std::string_view why) override {
    EXPECT_FALSE(has_lost_exchange_) << "other ranks may still read the memory of an exchange";
    group_->abort(why);
  }

 protected:
  std::unique_ptr<DispatchExchange> begin(std::span<const array> arrays, std::span<const std::int64_t> send_counts,
                                          std::span<const std::int64_t> recv_counts) {
    calls += 's';
    if (exchanges_before_failure-- == 0) {
      throw std::bad_alloc();
    }
    std::vector<std::int64_t> ends(send_counts.size());
    std::partial_sum(send_counts.begin(), send_counts.end(), ends.begin());
    for (const array& a : arrays) {
      EXPECT_TRUE(a.is_row_major());
      EXPECT_EQ(a.dim(0), ends.back());
    }
    const int number = exchanges_++;
    group_->post(number, rank_, {.arrays = {arrays.begin(), arrays.end()}, .ends = std::move(ends)});
    return std::make_unique<Exchange>(*this, number, recv_counts);
  }

 private:
  /// Rows stay with the sender until the receiver waits for them.
  class Exchange final : public DispatchExchange {
   public:
    Exchange(ThreadEngine& engine, int number, std::span<const std::int64_t> recv_counts)
        : engine_(engine), number_(number), recv_counts_(recv_counts.begin(), recv_counts.end()) {}
    ~Exchange() override { engine_.has_lost_exchange_ |= !waited_; }
    void progress() override { engine_.calls += 'p'; }
    std::vector<array> wait() override {
      engine_.calls += 'w';
      waited_ = true;
      const std::vector<Group::Post>& posts = engine_.group_->wait_for_posts(number_);
      std::vector<array> received;
      for (std::size_t i = 0; i < posts.front().arrays.size(); ++i) {
        received.push_back(engine_.gather(posts, i, recv_counts_));
      }
      engine_.group_->finish(number_);
      return received;
    }

   private:
    ThreadEngine& engine_;
    int number_;
    std::vector<std::int64_t> recv_counts_;
    bool waited_ = false;
  };

  /// The rows of array `i` that all ranks have for this one.
  [[nodiscard]] array gather(const std::vector<Group::Post>& posts, std::size_t i,
                             std::span<const std::int64_t> recv_counts) const {
    const auto rank = static_cast<std::size_t>(rank_);
    Shape shape = posts[rank].arrays[i].shape();
    shape.front() = std::accumulate(recv_counts.begin(), recv_counts.end(), std::int64_t{0});
    array all = array::empty(shape, posts[rank].arrays[i].dtype());
    std::byte* to = all.mutable_bytes();
    for (std::size_t source = 0; source < posts.size(); ++source) {
      const Group::Post& post = posts[source];
      const array& from = post.arrays[i];
      const std::int64_t begin = rank_ == 0 ? 0 : post.ends[rank - 1];
      const std::int64_t count = post.ends[rank] - begin;
      EXPECT_EQ(count, recv_counts[source]);
      EXPECT_EQ(from.dtype(), all.dtype());
      EXPECT_EQ(Shape(from.shape().begin() + 1, from.shape().end()), Shape(shape.begin() + 1, shape.end()));
      to = std::copy_n(from.bytes() + begin * from.stride(0), count * from.stride(0), to);
    }
    return all;
  }

  std::shared_ptr<Group> group_;
  int rank_;
  int exchanges_ = 0;
  bool has_lost_exchange_ = false;
};

/// An engine whose exchanges end when they are waited for.
class OverlappingEngine final : public ThreadEngine {
 public:
  using ThreadEngine::ThreadEngine;
  [[nodiscard]] bool overlaps() const noexcept override { return true; }
  std::unique_ptr<DispatchExchange> start(std::span<const array> arrays, std::span<const std::int64_t> send_counts,
                                          std::span<const std::int64_t> recv_counts) override {
    return begin(arrays, send_counts, recv_counts);
  }
};

/// Runs work(engine) on every rank of a group, and returns what each has thrown, or "".
template <class Engine = ThreadEngine, class Work>
std::vector<std::string> run(int ranks, const Work& work) {
  const auto group = std::make_shared<Group>(ranks);
  std::vector<std::string> errors(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        work(std::make_shared<Engine>(group, rank));
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

/// Compares random layers on 1 to 8 ranks with one rank. chunks(seed): into how many chunks they are cut.
template <class Engine, class Chunks>
void expect_bits_of_one_rank(unsigned seeds, const Chunks& chunks) {
  for (unsigned seed = 0; seed < seeds; ++seed) {
    const int ranks = 1 + static_cast<int>(seed % 8);
    const DividedLayer divided = random_divided_layer(seed, ranks);
    const Errors errors = run<Engine>(ranks, [&](const std::shared_ptr<Engine>& engine) {
      const int rank = engine->rank();
      const ExpertLayer layer = divided.part(engine, (seed + static_cast<unsigned>(rank)) % 3 == 0, chunks(seed));
      for (int call = 0; call < 2; ++call) {
        EXPECT_EQ(memory_of(divided.divided(layer, rank)), memory_of(divided.expected(rank)))
            << "seed " << seed << ", rank " << rank << " of " << ranks << ", " << chunks(seed) << " chunks";
      }
    });
    ASSERT_EQ(errors, Errors(static_cast<std::size_t>(ranks))) << "seed " << seed;
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

TEST(ExpertLayer, AnyNumberOfRanksHasTheBitsOfOne) {
  expect_bits_of_one_rank<ThreadEngine>(200, [](unsigned) { return 0; });
}

TEST(ExpertLayer, AnyNumberOfChunksHasTheBitsOfOneRank) {
  // A rank holds 12 experts at most, so that some of 64 chunks are empty everywhere.
  const auto chunks = [](unsigned seed) { return std::vector{2, 3, 4, 7, 64}[seed % 5]; };
  expect_bits_of_one_rank<OverlappingEngine>(200, chunks);
  expect_bits_of_one_rank<ThreadEngine>(40, chunks);
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

TEST(ExpertLayer, ResultsOfAChunkReturnWhileTheNextIsComputed) {
  ThreeRanks ranks;
  const auto calls = [&](int chunks) {
    std::string of_rank_0;
    const Errors errors = run<OverlappingEngine>(3, [&](const std::shared_ptr<OverlappingEngine>& engine) {
      std::ignore = ranks.divided().divided(ranks.divided().part(engine, false, chunks), engine->rank());
      if (engine->rank() == 0) {
        of_rank_0 = engine->calls;
      }
    });
    EXPECT_EQ(errors, Errors(3));
    return of_rank_0;
  };
  const std::string rows = "sw";
  EXPECT_EQ(calls(1), rows + "sp" + "w");
  EXPECT_EQ(calls(3), rows + "sp" + "spp" + "sppp" + "www");
  EXPECT_EQ(calls(0), calls(1)) << "rows are few";
}

TEST(ExpertLayer, LongCallsHaveChunksIfTheEngineOverlaps) {
  // Messages of results have 1024 tokens · 2 slots · 64 · 4 bytes / 2² = 128 KiB in the mean.
  RandomRanks random(1);
  const DividedLayer divided = {.owners = ExpertOwners::contiguous(8, 2),
                                .whole = {.gate = affine_weights(1, {8}, 64, 64),
                                          .up = affine_weights(2, {8}, 64, 64),
                                          .down = affine_weights(3, {8}, 64, 64),
                                          .options = {}},
                                .tokens = {random.rank(1000, 2, 64, 8), random.rank(24, 2, 64, 8)},
                                .shared_scales = {{}, {}}};
  const auto expect = [&]<class Engine>(const std::shared_ptr<Engine>& engine, const std::string& calls) {
    const array y = divided.divided(divided.part(engine, false), engine->rank());
    EXPECT_EQ(memory_of(y), memory_of(divided.expected(engine->rank())));
    EXPECT_EQ(engine->calls, calls);
  };
  EXPECT_EQ(run<OverlappingEngine>(2, [&](const auto& engine) { expect(engine, "swspsppspppsppppwwww"); }), Errors(2));
  EXPECT_EQ(run<ThreadEngine>(2, [&](const auto& engine) { expect(engine, ""); }), Errors(2));
}

TEST(ExpertLayer, ChunksThatDifferOrAreOutOfRangeAreErrorsOnAllRanks) {
  ThreeRanks ranks;
  const auto errors = [&](int of_rank_1, int of_others) {
    return run(3, [&](const std::shared_ptr<ThreadEngine>& engine) {
      std::ignore = ranks.divided().part(engine, false, engine->rank() == 1 ? of_rank_1 : of_others);
    });
  };
  EXPECT_EQ(errors(2, 3),
            Errors(3, "[ExpertLayer] rank 1 has another set of options than rank 0; make the layer alike on all ranks"));
  EXPECT_EQ(errors(1, 0), Errors(3)) << "the engine does not overlap, so 0 is 1";
  EXPECT_EQ(errors(64, 64), Errors(3));
  for (const int wrong : {-1, 65}) {
    const Errors of_all = errors(wrong, 2);
    EXPECT_EQ(of_all[1], "[ExpertLayer] chunks = " + std::to_string(wrong) + " is outside 0 ... 64; 0 lets the library decide");
    EXPECT_EQ(of_all[0], "[ExpertLayer] rank 1 refused its arguments; its own error says why");
  }
}

TEST(ExpertLayer, AnExceptionInTheMiddleOfACallEndsTheGroup) {
  ThreeRanks ranks;
  // Of the exchanges of a layer and a call: at the start, of headers, of rows, of the results of 3 chunks.
  for (int exchange = 0; exchange < 6; ++exchange) {
    const auto call = [&](const std::shared_ptr<ThreadEngine>& engine) {
      engine->exchanges_before_failure = engine->rank() == 2 ? exchange : -1;
      std::ignore = ranks.divided().divided(ranks.divided().part(engine, false, 3), engine->rank());
    };
    const std::string others = "[ExpertLayer] in the middle of a call: std::bad_alloc";
    EXPECT_EQ(run<ThreadEngine>(3, call), (Errors{others, others, "std::bad_alloc"})) << "exchange " << exchange;
    EXPECT_EQ(run<OverlappingEngine>(3, call), (Errors{others, others, "std::bad_alloc"})) << "exchange " << exchange;
  }
}

}  // namespace

}  // namespace gqmm::test
