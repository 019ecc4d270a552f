// gqmm/mpi.hpp on real ranks: mpiexec starts this program, and all ranks run the same tests.
#include "api/dispatch_test_support.hpp"

#include <gqmm/mpi.hpp>

#include <chrono>
#include <thread>

namespace gqmm::test {

namespace {

std::shared_ptr<mpi::Engine> make_engine(const mpi::EngineOptions& options = {}) {
  return std::make_shared<mpi::Engine>(MPI_COMM_WORLD, options);
}

TEST(Mpi, RanksHaveTheBitsOfOne) {
  const std::shared_ptr<mpi::Engine> engine = make_engine();
  for (unsigned seed = 0; seed < 60; ++seed) {
    const DividedLayer divided = random_divided_layer(seed, engine->ranks());
    const int chunks = std::vector{0, 1, 2, 3, 8, 64}[seed % 6];
    const ExpertLayer layer = divided.part(engine, (seed + static_cast<unsigned>(engine->rank())) % 3 == 0, chunks);
    EXPECT_EQ(memory_of(divided.divided(layer, engine->rank())), memory_of(divided.expected(engine->rank())))
        << "seed " << seed << ", " << chunks << " chunks";
  }
}

TEST(Mpi, ExchangesUnderWayKeepApart) {
  const std::shared_ptr<mpi::Engine> engine = make_engine({.piece_bytes = 100'000});
  EXPECT_TRUE(engine->overlaps());
  const auto ranks = static_cast<std::size_t>(engine->ranks());
  // Exchange i has i % 3 rows for each rank: short ones, which MPI sends at once, and long ones. Its values say whose they are.
  const auto length = [](int i) { return std::int64_t{i % 2 == 0 ? 4 : 100'000}; };
  const auto value = [](int i, int from) { return static_cast<float>(100 * i + from); };
  std::vector<std::unique_ptr<DispatchExchange>> exchanges;
  for (int i = 0; i < 9; ++i) {
    const std::vector<std::int64_t> counts(ranks, i % 3);
    const Shape shape = {std::int64_t{i % 3} * engine->ranks(), length(i)};
    const array sent = floats(shape, std::vector<float>(static_cast<std::size_t>(shape[0] * shape[1]), value(i, engine->rank())));
    exchanges.push_back(engine->start({&sent, 1}, counts, counts));
    exchanges.front()->progress();
  }
  exchanges[7].reset();  // the others keep their messages
  for (const int i : {4, 8, 2, 0, 1, 3, 5, 6}) {
    const array received = exchanges[static_cast<std::size_t>(i)]->wait().front();
    std::vector<float> expected;
    for (int from = 0; from < engine->ranks(); ++from) {
      expected.insert(expected.end(), static_cast<std::size_t>(i % 3 * length(i)), value(i, from));
    }
    EXPECT_EQ(memory_of(received), memory_of(floats(received.shape(), expected))) << "exchange " << i;
  }
}

TEST(Mpi, AnExchangeThatIsDestroyedIsWaitedFor) {
  const std::shared_ptr<mpi::Engine> engine = make_engine();
  constexpr std::chrono::milliseconds late(100);
  const auto ranks = static_cast<std::size_t>(engine->ranks());
  const std::vector<std::int64_t> one_each(ranks, 1);
  const array sent = array::empty({engine->ranks(), 1}, Dtype::float32);
  int begun = 0;
  if (engine->rank() != 0) {
    MPI_Bcast(&begun, 1, MPI_INT, 0, MPI_COMM_WORLD);
    std::this_thread::sleep_for(late);
    std::ignore = engine->all_to_all({&sent, 1}, one_each, one_each);
    return;
  }
  std::unique_ptr<DispatchExchange> exchange = engine->start({&sent, 1}, one_each, one_each);
  const auto before = std::chrono::steady_clock::now();
  MPI_Bcast(&begun, 1, MPI_INT, 0, MPI_COMM_WORLD);
  exchange.reset();
  EXPECT_GE(std::chrono::steady_clock::now() - before, late);
}

TEST(Mpi, LongMessagesGoInPieces) {
  const std::shared_ptr<mpi::Engine> engine = make_engine({.piece_bytes = 100});
  const int rank = engine->rank();
  const int ranks = engine->ranks();
  // Rank r sends 7 · r + p rows to rank p, whose numbers say where they come from and go to.
  const auto count = [](int from, int to) { return std::int64_t{7} * from + to; };
  const auto rows = [&](int from, int to) {
    std::vector<std::int64_t> values;
    for (std::int64_t i = 0; i < count(from, to) * 5; ++i) {
      values.push_back(1'000'000 * from + 10'000 * to + i);
    }
    return values;
  };
  std::vector<std::int64_t> sent;
  std::vector<std::int64_t> expected;
  std::vector<std::int64_t> send_counts;
  std::vector<std::int64_t> recv_counts;
  for (int peer = 0; peer < ranks; ++peer) {
    const std::vector<std::int64_t> out = rows(rank, peer);
    const std::vector<std::int64_t> in = rows(peer, rank);
    sent.insert(sent.end(), out.begin(), out.end());
    expected.insert(expected.end(), in.begin(), in.end());
    send_counts.push_back(count(rank, peer));
    recv_counts.push_back(count(peer, rank));
  }
  const auto whole = static_cast<std::int64_t>(sent.size()) / 5;
  const array arrays[] = {int64s({whole, 5}, sent), int64s({whole, 1, 5}, sent), array::empty({whole, 0}, Dtype::float32)};
  const std::vector<array> received = engine->all_to_all(arrays, send_counts, recv_counts);
  ASSERT_EQ(received.size(), 3U);
  const auto came = static_cast<std::int64_t>(expected.size()) / 5;
  EXPECT_EQ(memory_of(received[0]), memory_of(int64s({came, 5}, expected)));
  EXPECT_EQ(memory_of(received[1]), memory_of(int64s({came, 1, 5}, expected)));
  EXPECT_EQ(received[1].shape(), (Shape{came, 1, 5}));
  EXPECT_EQ(received[2].shape(), (Shape{came, 0}));
}

TEST(Mpi, MessagesOfTheProgramAreNotThoseOfTheEngine) {
  const std::shared_ptr<mpi::Engine> engine = make_engine();
  const int next = (engine->rank() + 1) % engine->ranks();
  const int own = engine->rank();
  int received = -1;
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Irecv(&received, 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &request);
  const DividedLayer divided = random_divided_layer(3, engine->ranks());
  const ExpertLayer layer = divided.part(engine, false);
  EXPECT_EQ(memory_of(divided.divided(layer, engine->rank())), memory_of(divided.expected(engine->rank())));
  MPI_Send(&own, 1, MPI_INT, next, 1, MPI_COMM_WORLD);
  MPI_Wait(&request, MPI_STATUS_IGNORE);
  EXPECT_EQ(received, (own + engine->ranks() - 1) % engine->ranks());
}

TEST(Mpi, MistakesAreErrorsOnAllRanks) {
  const std::shared_ptr<mpi::Engine> engine = make_engine();
  const DividedLayer divided = random_divided_layer(5, engine->ranks());
  const int last = engine->ranks() - 1;
  const std::string name = std::to_string(last);
  {
    DividedLayer other = divided;
    if (engine->rank() == last) {
      other.whole.options.precision = divided.whole.options.precision == Precision::fast ? Precision::standard : Precision::fast;
    }
    expect_error("[ExpertLayer] rank " + name + " has another set of options than rank 0; make the layer alike on all ranks",
                 [&] { return other.part(engine, false); });
  }
  const ExpertLayer layer = divided.part(engine, false);
  const Rank& tokens = divided.tokens[static_cast<std::size_t>(engine->rank())];
  const array x =
      floats({1, tokens.x.dim(1)}, std::vector<float>(static_cast<std::size_t>(tokens.x.dim(1)), 1.0F), tokens.x.dtype());
  const std::int64_t experts = divided.owners.num_experts();
  const std::int64_t id = engine->rank() == last ? experts : 0;
  const std::string limit = std::to_string(experts);
  expect_error(engine->rank() == last ? "[DispatchPlan] topk_ids[0, 0] = " + limit + " is out of range: there are " + limit +
                                            " experts, so ids must be below that, or negative for a slot of nobody"
                                      : "[ExpertLayer] rank " + name + " refused its arguments; its own error says why",
               [&] { return layer(x, int64s({1, 1}, {id}), floats({1, 1}, {1})); });
  EXPECT_EQ(memory_of(divided.divided(layer, engine->rank())), memory_of(divided.expected(engine->rank())));
}

TEST(Mpi, OptionsOutOfTheirRangeAreRefused) {
  expect_error("[gqmm::mpi] timeout = -0.5 s is not positive",
               [] { return make_engine({.timeout = std::chrono::milliseconds(-500)}); });
  expect_error("[gqmm::mpi] piece_bytes = 0 is outside 1 ... 2147483647", [] { return make_engine({.piece_bytes = 0}); });
  expect_error("[gqmm::mpi] piece_bytes = 2147483648 is outside 1 ... 2147483647",
               [] { return make_engine({.piece_bytes = std::int64_t{1} << 31}); });
}

}  // namespace

}  // namespace gqmm::test

int main(int argc, char** argv) {
  gqmm::test::expect_error("[gqmm::mpi] MPI does not run; make engines between MPI_Init and MPI_Finalize",
                           [] { return gqmm::mpi::Engine(MPI_COMM_WORLD).rank(); });
  MPI_Init(&argc, &argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank != 0) {
    testing::GTEST_FLAG(output) = "";  // one rank writes the file of results
  }
  testing::InitGoogleTest(&argc, argv);
  const int status = RUN_ALL_TESTS();
  MPI_Finalize();
  return status;
}
