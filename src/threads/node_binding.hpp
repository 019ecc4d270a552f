// Calls on one memory node.
//
// A thread that is bound to a node has everything else follow: the number of threads that a call gets, the team that computes it,
// and the memory that it takes.
#pragma once

#include "threads/limits.hpp"
#include "threads/processor_set.hpp"

#include <gqmm/stream.hpp>

#include <optional>

namespace gqmm::threads {

/// Binds the calling thread to the processors of a memory node while the object lives. Then the thread's calls use the node's
/// team and count its processors alone. The destructor gives the thread the affinity mask back that it had. Objects of a thread
/// are destroyed in the reverse order of their making.
class NodeBinding {
 public:
  /// Binds the thread to the node of a stream. Nothing changes if the stream names no node, if the thread is bound to this node
  /// already, or if the thread may use no processor of the node, which check_stream reports.
  explicit NodeBinding(const Stream& stream);
  /// Binds the thread to `processors` as a node with this number, whatever the machine has.
  NodeBinding(int node, const ProcessorSet& processors);
  ~NodeBinding();
  NodeBinding(const NodeBinding&) = delete;
  NodeBinding& operator=(const NodeBinding&) = delete;

  /// The node that the calling thread is bound to, if any.
  [[nodiscard]] static std::optional<int> node();
  /// The processors of that node. Returns nothing if the thread is not bound.
  [[nodiscard]] static std::optional<Processors> processors();
  /// The processors that the thread could use if it were not bound to a node.
  [[nodiscard]] static Processors unbound_processors();

 private:
  struct Bound {
    int node;
    Processors unbound;     // what the thread may use without a binding
    Processors processors;  // what it may use on the node
    ProcessorSet mask;      // the thread's affinity mask before the binding
    const Bound* outer;     // the binding within which this one was made
  };
  void bind(int node, const ProcessorSet& processors);

  static thread_local const Bound* current_;
  std::optional<Bound> bound_;
};

}  // namespace gqmm::threads
