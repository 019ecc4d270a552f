#include "measure/measure.hpp"

#include "measure/pinned_thread.hpp"
#include "tools/machine.hpp"

#include <fmt/format.h>
#include <gqmm/system.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <stdexcept>
#include <thread>
#include <utility>

namespace gqmm::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int error_samples = 256;
constexpr double most_stolen = 0.05;

/// The rates of the machine's two limits at one moment.
struct Limits {
  double arithmetic = 0;
  double memory = 0;
};

/// The averages over the calls of a repetition.
struct CallFigures {
  double seconds = 0;
  double stolen = 0;  // the fraction of time in which the operating system ran other programs on the cores of this process
  double experts_hit = 0;
};

/// A repetition, with the limits before and after it.
struct Repetition {
  CallFigures call;
  Limits before;
  Limits after;
  std::vector<double> peers;  // seconds of one call of each peer; 0 if it was not measured in this repetition
};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double process_seconds() {
  timespec time = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Makes and measures `calls` calls. It also finds the time that other programs took: gqmm's waiting threads spin for longer than
/// one thread ever runs alone in a call. So all threads use processor time all the time. What is missing from wall time × threads
/// went to other programs.
CallFigures run_calls(Workload& workload, int calls, int threads) {
  const double experts_hit = workload.prepare(calls);
  const double used = process_seconds();
  const auto start = Clock::now();
  for (int call = 0; call < calls; ++call) {
    workload.call();
  }
  const double wall = seconds_since(start);
  return {wall / calls, 1 - (process_seconds() - used) / (wall * threads), experts_hit};
}

/// Runs the case until caches, clock and threads are warm. Returns the number of calls that fill a repetition.
int warm_up(Workload& workload, double repetition_seconds, int threads) {
  constexpr double warm_seconds = 0.1;
  constexpr int most_calls = 100000;
  double spent = 0;
  int calls = 1;
  for (;;) {
    const double seconds = run_calls(workload, calls, threads).seconds;
    spent += seconds * calls;
    calls = static_cast<int>(std::clamp(std::ceil(repetition_seconds / seconds), 1.0, static_cast<double>(most_calls)));
    if (spent >= warm_seconds) {
      return calls;
    }
  }
}

LimitFigures figures_of(Limit limit, const Case& settings, const std::vector<Repetition>& repetitions, const Probes& probes) {
  const bool memory = limit == Limit::dram_read;
  std::vector<double> rates;
  std::vector<double> fractions;
  for (const Repetition& repetition : repetitions) {
    const double rate = memory ? mean({repetition.before.memory, repetition.after.memory})
                               : mean({repetition.before.arithmetic, repetition.after.arithmetic});
    const double work = memory ? settings.bytes(repetition.call.experts_hit) : settings.operations();
    rates.push_back(rate);
    fractions.push_back(work / repetition.call.seconds / rate);
  }
  return {limit, probes.description(limit), summarize(rates), summarize(fractions)};
}

PeerFigures figures_of(const Peer& peer, std::size_t index, const std::vector<Repetition>& repetitions) {
  std::vector<double> seconds;
  std::vector<double> ratios;
  for (const Repetition& repetition : repetitions) {
    if (repetition.peers[index] > 0) {
      seconds.push_back(repetition.peers[index]);
      ratios.push_back(repetition.peers[index] / repetition.call.seconds);
    }
  }
  return {peer, summarize(seconds), summarize(ratios), static_cast<int>(seconds.size())};
}

/// Measures one repetition of each peer that has time left. The result of the other peers is 0.
std::vector<double> measure_peers(PeerProcess& process, std::vector<double>& spent, double limit, int threads) {
  std::vector<double> seconds(process.peers().size(), 0.0);
  for (std::size_t i = 0; i < seconds.size(); ++i) {
    const Peer& peer = process.peers()[i];
    if (!peer.skipped.empty() || spent[i] > limit) {
      continue;
    }
    if (threads > 1) {
      // gqmm's threads spin for some milliseconds after a call, on the cores that the peer will use. So the peer waits for their
      // end.
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    const auto start = Clock::now();
    seconds[i] = process.measure(peer);
    spent[i] += seconds_since(start);
  }
  return seconds;
}

struct Repetitions {
  std::vector<Repetition> accepted;
  std::vector<Repetition> rejected;  // repetitions during which the machine changed
  [[nodiscard]] const std::vector<Repetition>& counted() const { return accepted.empty() ? rejected : accepted; }
};

/// The objects that a repetition needs.
struct Setup {
  const Case& settings;
  const MeasureOptions& options;
  Workload& workload;
  PeerProcess& peers;
  std::function<Limits()> limits;
  double Limits::* binding;
  int calls;
};

bool steady(const Repetition& repetition, const Setup& setup) {
  const double before = repetition.before.*setup.binding;
  const double after = repetition.after.*setup.binding;
  return repetition.call.stolen <= most_stolen && std::fabs(after - before) <= setup.options.unsteady * mean({before, after});
}

Repetitions repeat(const Setup& setup, const Progress& progress) {
  RepetitionCount count = {setup.options.repetitions};
  Repetitions result;
  std::vector<double> peer_spent(setup.peers.peers().size(), 0.0);
  Limits before = setup.limits();
  while (!count.enough()) {
    Repetition repetition;
    repetition.before = before;
    repetition.call = run_calls(setup.workload, setup.calls, setup.settings.threads);
    repetition.after = setup.limits();
    repetition.peers = measure_peers(setup.peers, peer_spent, setup.options.peer_seconds, setup.settings.threads);
    before = setup.peers.peers().empty() ? repetition.after : setup.limits();
    const bool accepted = steady(repetition, setup);
    ++(accepted ? count.accepted : count.rejected);
    (accepted ? result.accepted : result.rejected).push_back(std::move(repetition));
    progress(count);
  }
  return result;
}

Limit arithmetic_limit(const Case& settings) { return settings.is_integer() ? Limit::int8_dot : Limit::float32_fma; }

}  // namespace

double RepetitionCount::done() const {
  return std::max(static_cast<double>(accepted) / wanted, static_cast<double>(accepted + rejected) / (3.0 * wanted));
}

std::string RepetitionCount::note() const { return rejected > 0 ? std::to_string(rejected) + " rejected  " : std::string(); }

std::size_t default_pool_bytes() { return std::max(std::size_t{256} << 20, 8 * tools::last_level_cache_bytes()); }

Limit binding_limit(const Case& settings, double arithmetic, double memory) {
  return settings.cached || settings.slices() * arithmetic > memory ? arithmetic_limit(settings) : Limit::dram_read;
}

Runner::Runner(MeasureOptions options, PeerOptions peers) : options_(std::move(options)), peer_options_(std::move(peers)) {}

Probes& Runner::probes(int threads) {
  auto& found = probes_[threads];
  if (!found) {
    const double pool = static_cast<double>(options_.pool_bytes);
    const double available = 0.8 * static_cast<double>(tools::available_memory());
    if (pool > available) {
      throw std::invalid_argument(fmt::format(
          "[bench] a pool of {:.1f} GB and {:.1f} GB of memory are free; give a smaller --pool", pool / 1e9, available / 1e9));
    }
    found = std::make_unique<Probes>(threads, options_.probe_set, options_.pool_bytes, options_.pages);
  }
  return *found;
}

CaseFigures Runner::run(const Case& settings, const std::vector<std::string>& wanted, const Progress& progress) {
  progress({options_.repetitions});
  const PinnedThread pinned(settings.threads == 1);
  set_instruction_set(settings.isa);
  Probes& machine = probes(settings.threads);
  Workload workload(settings, options_.pool_bytes, options_.pages);
  CaseFigures figures;
  figures.settings = settings;
  figures.copies = workload.copies();
  figures.experts_hit = workload.prepare(1);
  workload.call();  // if the library rejects the case, this throws before the peers are set up
  PeerProcess peers(peer_options_, settings, wanted, options_.peer_seconds, options_.pool_bytes);
  figures.calls = warm_up(workload, options_.repetition_seconds, settings.threads);

  const Limit arithmetic = arithmetic_limit(settings);
  const auto limits = [&] { return Limits{machine.measure(arithmetic), machine.measure(Limit::dram_read)}; };
  const Limits now = limits();
  const Limit binding = binding_limit(settings, settings.operations() / now.arithmetic, figures.bytes() / now.memory);
  const Setup setup = {settings,     options_, workload,
                       peers,        limits,   binding == Limit::dram_read ? &Limits::memory : &Limits::arithmetic,
                       figures.calls};
  const Repetitions repetitions = repeat(setup, progress);
  const std::vector<Repetition>& counted = repetitions.counted();
  figures.repetitions = static_cast<int>(repetitions.accepted.size());
  figures.rejected = static_cast<int>(repetitions.rejected.size());
  std::vector<double> seconds;
  std::vector<double> experts_hit;
  for (const Repetition& repetition : counted) {
    seconds.push_back(repetition.call.seconds);
    experts_hit.push_back(repetition.call.experts_hit);
  }
  figures.seconds = summarize(seconds);
  figures.experts_hit = mean(experts_hit);
  figures.arithmetic = figures_of(arithmetic, settings, counted, machine);
  figures.memory = figures_of(Limit::dram_read, settings, counted, machine);
  // The limit is determined again from the medians, because the decision above was made from one pass of the probes.
  figures.binding = binding_limit(settings, figures.arithmetic.fraction.median, figures.memory.fraction.median);
  figures.error = workload.error(error_samples);
  for (std::size_t i = 0; i < peers.peers().size(); ++i) {
    figures.peers.push_back(figures_of(peers.peers()[i], i, counted));
  }
  return figures;
}

}  // namespace gqmm::bench
