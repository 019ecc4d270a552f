// Runs a case: a warm-up, then repetitions. The machine's limits are measured before and after each repetition, and peers between
// repetitions.
#pragma once

#include "cases/case.hpp"
#include "measure/memory.hpp"
#include "measure/statistics.hpp"
#include "measure/workload.hpp"
#include "peers/peers.hpp"
#include "probes/probes.hpp"

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace gqmm::bench {

/// Returns eight times the size of the last-level cache, or 256 MiB if that is more.
std::size_t default_pool_bytes();

struct MeasureOptions {
  int repetitions = 9;
  /// The duration of a repetition, which makes as many calls as fit into it.
  double repetition_seconds = 0.03;
  /// A repetition is rejected if the limit before it and the limit after it differ by more than this fraction of their mean. It
  /// is also rejected if the operating system gave a twentieth of its time to other programs.
  double unsteady = 0.1;
  /// The time that each peer may take per case.
  double peer_seconds = 5;
  /// The least number of bytes of all weights. The DRAM probe reads the same number of bytes.
  std::size_t pool_bytes = default_pool_bytes();
  Pages pages = Pages::standard;
  std::string probe_set;  // the name of a probe set; empty for the best that the machine supports
};

/// One limit of the machine, and the fraction of it that the case reached.
struct LimitFigures {
  Limit limit = Limit::int8_dot;
  std::string description;
  Summary rate;      ///< the limit in operations or bytes per second
  Summary fraction;  ///< of each repetition: the case's rate, divided by the mean of the limit before and after it
};

struct PeerFigures {
  Peer peer;
  Summary seconds;  ///< seconds of one call
  Summary ratio;    ///< of each repetition: the peer's time divided by gqmm's
  int repetitions = 0;
};

struct CaseFigures {
  Case settings;
  int repetitions = 0;     ///< accepted repetitions; if there are none, the figures are those of the rejected ones
  int rejected = 0;        ///< rejected repetitions, because the machine changed while they ran
  int calls = 0;           ///< calls of one repetition
  int copies = 0;          ///< copies of the weights in the pool
  double experts_hit = 0;  ///< experts that one call hits, on average
  Summary seconds;         ///< seconds of one call
  LimitFigures arithmetic;
  LimitFigures memory;
  Limit binding = Limit::int8_dot;  ///< binding_limit() of the two

  /// Whether more repetitions were rejected than accepted, because the machine was busy for most of the case.
  [[nodiscard]] bool mostly_rejected() const { return rejected > repetitions; }
  [[nodiscard]] double rows_per_expert() const { return static_cast<double>(settings.pairs()) / experts_hit; }
  /// Returns the number of bytes that a call must read at least: codes, scales and biases of the experts that it hits,
  /// and of the shared ones.
  [[nodiscard]] double bytes() const { return settings.bytes(experts_hit); }
  ErrorEstimate error;
  std::vector<PeerFigures> peers;
};

/// Returns the limit that binds the case: the one that allows less speed. The decision compares the fractions of both limits at
/// one speed. A case can reach 1 / slices() of the int8-dot peak, so its fraction of the peak counts slices() times. Memory never
/// binds a case whose weights stay in cache.
Limit binding_limit(const Case& settings, double arithmetic, double memory);

/// The number of repetitions of a case so far. The case ends when the wanted number has been accepted, or when three times that
/// number has run.
struct RepetitionCount {
  int wanted = 0;
  int accepted = 0;
  int rejected = 0;

  [[nodiscard]] bool enough() const { return accepted >= wanted || accepted + rejected >= 3 * wanted; }
  /// Returns the progress from 0 to 1. It counts the accepted repetitions or all, whichever is nearer to the end.
  [[nodiscard]] double done() const;
  /// Returns a note for a progress bar, "3 rejected  ", or nothing. It stands before the case's name, because a narrow terminal
  /// cuts off the end.
  [[nodiscard]] std::string note() const;
};

/// A function that is called before the first repetition and after each repetition.
using Progress = std::function<void(const RepetitionCount&)>;

class Runner {
 public:
  explicit Runner(MeasureOptions options, PeerOptions peers);

  /// Measures a case. Throws std::invalid_argument if the library rejects the case, or if the case or the pool needs more memory
  /// than is free.
  CaseFigures run(const Case& settings, const std::vector<std::string>& peers, const Progress& progress);

 private:
  Probes& probes(int threads);

  MeasureOptions options_;
  PeerOptions peer_options_;
  std::map<int, std::unique_ptr<Probes>> probes_;  // the key is the number of threads
};

}  // namespace gqmm::bench
