// Runs a case: warm-up, repetitions with the machine's limits measured before and after each, peers in between.
#pragma once

#include "case.hpp"
#include "memory.hpp"
#include "peers.hpp"
#include "probes/probes.hpp"
#include "statistics.hpp"
#include "workload.hpp"

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace gqmm::bench {

/// Eight times the last-level cache, 256 MiB at least.
std::size_t default_pool_bytes();

struct MeasureOptions {
  int repetitions = 9;
  /// A repetition is as many calls as last this long.
  double repetition_seconds = 0.03;
  /// A repetition is rejected if the limit before it and the one after it differ by more than this fraction of their mean, or if
  /// the operating system gave a twentieth of its time to other programs.
  double unsteady = 0.1;
  /// Time that each peer may take per case.
  double peer_seconds = 5;
  /// Bytes of weights, at least, and of memory that the DRAM probe reads.
  std::size_t pool_bytes = default_pool_bytes();
  Pages pages = Pages::standard;
  std::string probe_set;  // empty: the machine's best
};

/// One limit of the machine and what the case reached of it.
struct LimitFigures {
  Limit limit = Limit::int8_dot;
  std::string description;
  Summary rate;      ///< of the limit, operations or bytes per second
  Summary fraction;  ///< per repetition: the case's rate over the mean of the limit before and after
};

struct PeerFigures {
  Peer peer;
  Summary seconds;  ///< of one call
  Summary ratio;    ///< per repetition: the peer's time over ours
  int repetitions = 0;
};

struct CaseFigures {
  Case settings;
  int repetitions = 0;     ///< accepted; if none was, the figures are those of the rejected ones
  int rejected = 0;        ///< the machine changed while they ran
  int calls = 0;           ///< of one repetition
  int copies = 0;          ///< of the weights in the pool
  double experts_hit = 0;  ///< by one call, on average
  Summary seconds;         ///< of one call
  LimitFigures arithmetic;
  LimitFigures memory;
  Limit binding = Limit::int8_dot;  ///< binding_limit() of the two

  /// So few accepted that the machine was busy for most of the case.
  [[nodiscard]] bool mostly_rejected() const { return rejected > repetitions; }
  [[nodiscard]] double rows_per_expert() const { return static_cast<double>(settings.pairs()) / experts_hit; }
  /// Codes, scales and biases of the experts hit: what a call must read at least.
  [[nodiscard]] double bytes() const { return settings.bytes_per_expert() * experts_hit; }
  ErrorEstimate error;
  std::vector<PeerFigures> peers;
};

/// The limit that leaves the case less speed, from its shares of both at one speed. A case can reach 1 / slices() of the int8-dot
/// peak and all of DRAM read, so its share of the peak counts slices() times. Weights in cache are never bound by memory.
Limit binding_limit(const Case& settings, double arithmetic, double memory);

/// Repetitions of a case so far. It ends when as many as wanted are accepted, or three times as many have run.
struct RepetitionCount {
  int wanted = 0;
  int accepted = 0;
  int rejected = 0;

  [[nodiscard]] bool enough() const { return accepted >= wanted || accepted + rejected >= 3 * wanted; }
  /// From 0 to 1, by the accepted ones or by all, whichever is nearer to the end.
  [[nodiscard]] double done() const;
  /// "3 rejected  ", or nothing: for a progress bar, before the name, which a narrow terminal cuts off.
  [[nodiscard]] std::string note() const;
};

/// Called before the first and after each repetition.
using Progress = std::function<void(const RepetitionCount&)>;

class Runner {
 public:
  explicit Runner(MeasureOptions options, PeerOptions peers);

  /// Throws std::invalid_argument if the library rejects the case, and if it or the pool needs more memory than is free.
  CaseFigures run(const Case& settings, const std::vector<std::string>& peers, const Progress& progress);

 private:
  Probes& probes(int threads);

  MeasureOptions options_;
  PeerOptions peer_options_;
  std::map<int, std::unique_ptr<Probes>> probes_;  // by number of threads
};

}  // namespace gqmm::bench
