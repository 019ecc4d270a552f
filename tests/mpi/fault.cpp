// A group of ranks in which the last one has a fault; the others must not wait for it forever.
//
//     mpiexec -n N fault stop | kill | late | lose | lose-chunk | stop-chunk | other
//
// stop: a signal stops it between two calls. kill: a signal ends it there. late: it never makes its engine. lose: an exception
// leaves the middle of its call. lose-chunk, stop-chunk: an exception or a signal comes while results of a chunk travel. other:
// it sends shorter rows.
#include "api/dispatch_test_support.hpp"

#include <gqmm/mpi.hpp>

#include <csignal>
#include <cstdio>
#include <string_view>

namespace gqmm::test {

namespace {

/// An engine that does not have the memory for one of its exchanges, or is stopped there.
class FaultyEngine : public DispatchEngine {
 public:
  /// `exchange` counts from 1. That of rows is 3, those of chunks follow.
  FaultyEngine(std::shared_ptr<mpi::Engine> engine, int exchange, bool stops)
      : engine_(std::move(engine)), left_(exchange), stops_(stops) {}
  [[nodiscard]] int rank() const noexcept override { return engine_->rank(); }
  [[nodiscard]] int ranks() const noexcept override { return engine_->ranks(); }
  [[nodiscard]] bool overlaps() const noexcept override { return engine_->overlaps(); }
  std::vector<array> all_to_all(std::span<const array> arrays, std::span<const std::int64_t> send_counts,
                                std::span<const std::int64_t> recv_counts) override {
    return start(arrays, send_counts, recv_counts)->wait();
  }
  std::unique_ptr<DispatchExchange> start(std::span<const array> arrays, std::span<const std::int64_t> send_counts,
                                          std::span<const std::int64_t> recv_counts) override {
    if (--left_ == 0) {
      if (!stops_) {
        throw std::bad_alloc();
      }
      std::raise(SIGSTOP);
    }
    return engine_->start(arrays, send_counts, recv_counts);
  }
  void abort(std::string_view why) override { engine_->abort(why); }

 private:
  std::shared_ptr<mpi::Engine> engine_;
  int left_;
  bool stops_;
};

/// The last rank sends a row of 2 numbers to each of the others, which expect 3.
void send_shorter_rows(DispatchEngine& engine) {
  const int last = engine.ranks() - 1;
  const bool is_last = engine.rank() == last;
  std::vector<std::int64_t> send_counts(static_cast<std::size_t>(engine.ranks()), is_last ? 1 : 0);
  send_counts.back() = 0;
  std::vector<std::int64_t> recv_counts(send_counts.size(), 0);
  recv_counts.back() = is_last ? 0 : 1;
  const array rows = array::empty({is_last ? last : 0, is_last ? 2 : 3}, Dtype::float32);
  std::ignore = engine.all_to_all({&rows, 1}, send_counts, recv_counts);
}

void run(std::string_view fault) {
  int rank = 0;
  int ranks = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  const bool is_last = rank == ranks - 1;
  const DividedLayer divided = random_divided_layer(3, ranks);
  MPI_Barrier(MPI_COMM_WORLD);  // processes start at different times, which the deadline should not see
  if (fault == "late" && is_last) {
    std::raise(SIGSTOP);
  }
  const auto over_mpi = std::make_shared<mpi::Engine>(MPI_COMM_WORLD, mpi::EngineOptions{.timeout = std::chrono::seconds(2)});
  if (fault == "other") {
    send_shorter_rows(*over_mpi);
  }
  std::shared_ptr<DispatchEngine> engine = over_mpi;
  const bool in_chunk = fault.ends_with("-chunk");
  if (is_last && (in_chunk || fault == "lose")) {
    engine = std::make_shared<FaultyEngine>(over_mpi, in_chunk ? 5 : 3, fault == "stop-chunk");
  }
  const ExpertLayer layer = divided.part(engine, false, in_chunk ? 3 : 1);
  std::ignore = divided.divided(layer, rank);
  if (is_last && (fault == "stop" || fault == "kill")) {
    std::raise(fault == "stop" ? SIGSTOP : SIGKILL);
  }
  std::ignore = divided.divided(layer, rank);
}

}  // namespace

}  // namespace gqmm::test

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  gqmm::test::run(argc > 1 ? argv[1] : "");
  std::puts("no fault");
  MPI_Finalize();
}
