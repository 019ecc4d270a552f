// Other libraries, measured in the same run by a Python process beside this one (bench/peers.py).
#pragma once

#include "case.hpp"
#include "child_process.hpp"

#include <nlohmann/json_fwd.hpp>

#include <memory>
#include <string>
#include <vector>

namespace gqmm::bench {

struct PeerOptions {
  std::string python;  ///< an interpreter in which the peers are installed; empty: no peers
};

/// Finds the interpreter: `request`, which `option` gave, is a path, "none", or "auto" for .venv/bin/python here or that of the
/// active environment. Empty if there is none.
std::string find_python(const std::string& request, const std::string& option);

struct Peer {
  std::string name;  ///< "mlx gather_qmm float32"
  std::string version;
  std::string computes;
  std::string skipped;  ///< why it cannot be measured; empty if it can
  double error = 0;     ///< of its results against float64 products of its own operands, relative, root mean square
};

/// The peers of one case. The process is started in the calling thread, whose affinity it inherits.
class PeerProcess {
 public:
  /// `wanted`: which peers, by the beginnings of their names; a peer whose first call shows that it would take longer than
  /// `seconds` is skipped. Without an interpreter there are no peers; one that cannot set them up (it lacks NumPy) is a skipped
  /// peer by itself.
  PeerProcess(const PeerOptions& options, const Case& settings, const std::vector<std::string>& wanted, double seconds);

  [[nodiscard]] const std::vector<Peer>& peers() const { return peers_; }
  /// Seconds per call, measured over a repetition. Throws std::runtime_error if the process fails.
  double measure(const Peer& peer);

 private:
  nlohmann::json ask(const nlohmann::json& request);

  std::unique_ptr<ChildProcess> process_;
  std::vector<Peer> peers_;
};

}  // namespace gqmm::bench
