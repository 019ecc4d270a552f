// Measures other libraries in the same run. A Python process runs them, with the package in this folder.
#pragma once

#include "cases/case.hpp"
#include "python_process.hpp"

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace gqmm::bench {

struct PeerOptions {
  std::string python;  ///< a Python interpreter in which the peers are installed; without one there are no peers
};

struct Peer {
  std::string name;  ///< "mlx gather_qmm float32"
  std::string version;
  std::string computes;
  std::string skipped;  ///< the reason why it cannot be measured; empty if it can
  double error = 0;     ///< root mean square of its relative errors, against float64 products of its own operands
};

/// The peers of one case. The calling thread starts the process, which inherits the thread's affinity.
class PeerProcess {
 public:
  /// Sets up the peers whose names begin with one of the texts in `wanted`. A peer is skipped if its first calls show that one
  /// call would take longer than `seconds`. Weights of a whole layer fill at least `pool_bytes`. Without an interpreter there are
  /// no peers. An interpreter that cannot set them up, because it lacks NumPy, counts as one skipped peer.
  PeerProcess(const PeerOptions& options, const Case& settings, const std::vector<std::string>& wanted, double seconds,
              std::size_t pool_bytes);

  [[nodiscard]] const std::vector<Peer>& peers() const { return peers_; }
  /// Measures a repetition and returns the seconds of one call. Throws std::runtime_error if the process fails.
  double measure(const Peer& peer);

 private:
  std::unique_ptr<PythonProcess> process_;
  std::vector<Peer> peers_;
};

}  // namespace gqmm::bench
