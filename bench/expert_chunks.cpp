// What chunks cost a divided layer on one machine (ExpertLayer's `chunks`). It prints a table of milliseconds.
//
//     GQMM_NUM_THREADS=1 mpirun -n 2 --bind-to none build/release/bench/gqmm_expert_chunks [rounds]
//
// The layer is that of Qwen3-30B-A3B in affine 4 bits, with x in bfloat16, and with random weights and choices. Each rank has an
// equal part of the tokens. The numbers of chunks take turns in each round. A cell has the least time of the slowest rank, and
// the least processor time of rank 0, over all rounds.
#include <gqmm/gqmm.hpp>
#include <gqmm/mpi.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

namespace {

constexpr std::int64_t hidden = 2048;
constexpr std::int64_t width = 768;
constexpr std::int64_t experts = 128;
constexpr std::int64_t top = 8;
constexpr int chunk_counts[] = {1, 2, 4, 8};

std::vector<float> normal_values(std::mt19937& random, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::normal_distribution<float> normal;
  std::ranges::generate(values, [&] { return normal(random); });
  return values;
}

/// Experts that are all alike: their values do not change the time.
gqmm::ExpertWeights random_experts(std::mt19937& random, std::int64_t held, std::int64_t outputs, std::int64_t inputs) {
  const std::vector<float> one = normal_values(random, outputs * inputs);
  std::vector<float> all;
  for (std::int64_t expert = 0; expert < held; ++expert) {
    all.insert(all.end(), one.begin(), one.end());
  }
  return gqmm::pack(gqmm::quantize(gqmm::array::borrow(all, {held, outputs, inputs})));
}

struct Tokens {
  gqmm::array x;
  gqmm::array topk_ids;
  gqmm::array topk_weights;
};

Tokens random_tokens(std::mt19937& random, std::int64_t count) {
  Tokens tokens = {gqmm::array::empty({count, hidden}, gqmm::Dtype::bfloat16),
                   gqmm::array::empty({count, top}, gqmm::Dtype::int64), gqmm::array::empty({count, top}, gqmm::Dtype::float32)};
  // The upper half of a float32 is a bfloat16.
  const std::vector<float> values = normal_values(random, count * hidden);
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::copy_n(reinterpret_cast<const std::byte*>(&values[i]) + 2, 2, tokens.x.mutable_bytes() + 2 * i);
  }
  std::vector<std::int64_t> all(experts);
  std::iota(all.begin(), all.end(), 0);
  for (std::int64_t token = 0; token < count; ++token) {
    std::ranges::shuffle(all, random);
    std::copy_n(all.begin(), top, tokens.topk_ids.mutable_data<std::int64_t>() + token * top);
  }
  std::fill_n(tokens.topk_weights.mutable_data<float>(), count * top, 1.0F / top);
  return tokens;
}

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// The least times over rounds, in seconds.
struct Times {
  double slowest_rank = std::numeric_limits<double>::infinity();
  double processor = std::numeric_limits<double>::infinity();

  void add(const gqmm::ExpertLayer& layer, const Tokens& tokens) {
    MPI_Barrier(MPI_COMM_WORLD);
    const double processor_before = processor_seconds();
    const double before = MPI_Wtime();
    const gqmm::array y = layer(tokens.x, tokens.topk_ids, tokens.topk_weights);
    double seconds = MPI_Wtime() - before;
    processor = std::min(processor, processor_seconds() - processor_before);
    MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    slowest_rank = std::min(slowest_rank, seconds);
  }
};

void run(int rounds) {
  const auto engine = std::make_shared<gqmm::mpi::Engine>(MPI_COMM_WORLD);
  const auto owners = gqmm::ExpertOwners::contiguous(experts, engine->ranks());
  const auto held = static_cast<std::int64_t>(owners.experts_of(engine->rank()).size());
  std::mt19937 random(static_cast<unsigned>(engine->rank()));
  const gqmm::ExpertWeights gate = random_experts(random, held, width, hidden);
  const gqmm::ExpertWeights up = random_experts(random, held, width, hidden);
  const gqmm::ExpertWeights down = random_experts(random, held, hidden, width);
  std::vector<gqmm::ExpertLayer> layers;
  for (const int chunks : chunk_counts) {
    layers.emplace_back(engine, gate, up, down, owners, gqmm::MoeFfnOptions{}, chunks);
  }
  if (engine->rank() == 0) {
    std::puts("| tokens | chunks | slowest rank, ms | processor time of rank 0, ms |\n|---|---|---|---|");
  }
  for (const std::int64_t count : {1, 64, 256, 1024}) {
    const Tokens tokens = random_tokens(random, std::max<std::int64_t>(count / engine->ranks(), 1));
    std::vector<Times> times(layers.size());
    for (int round = 0; round < rounds; ++round) {
      for (std::size_t i = 0; i < layers.size(); ++i) {
        times[i].add(layers[i], tokens);
      }
    }
    for (std::size_t i = 0; i < layers.size() && engine->rank() == 0; ++i) {
      std::printf("| %lld | %d | %.2f | %.2f |\n", static_cast<long long>(count), chunk_counts[i], 1e3 * times[i].slowest_rank,
                  1e3 * times[i].processor);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  run(argc > 1 ? std::max(std::atoi(argv[1]), 1) : 20);
  MPI_Finalize();
}
