#include "threads/node_binding.hpp"

#include "threads/memory_nodes.hpp"

#include <pthread.h>

namespace gqmm::threads {

constinit thread_local const NodeBinding::Bound* NodeBinding::current_ = nullptr;

NodeBinding::NodeBinding(const Stream& stream) {
  if (!stream.node || node() == stream.node) {
    return;
  }
  if (const std::optional<ProcessorSet> processors = usable_processors_of(*stream.node)) {
    bind(*stream.node, *processors);
  }
}

NodeBinding::NodeBinding(int node, const ProcessorSet& processors) { bind(node, processors); }

NodeBinding::~NodeBinding() {
  if (!bound_) {
    return;
  }
  current_ = bound_->outer;
  if (bound_->mask != bound_->processors.set) {
    bound_->mask.apply_to(pthread_self());
  }
}

void NodeBinding::bind(int node, const ProcessorSet& processors) {
  const Processors unbound = unbound_processors();
  bound_ = {.node = node,
            .unbound = unbound,
            .processors = {processors, unbound.quota},
            .mask = ProcessorSet::of_thread(),
            .outer = current_};
  if (bound_->mask != processors) {
    processors.apply_to(pthread_self());
  }
  current_ = &*bound_;
}

std::optional<int> NodeBinding::node() { return current_ != nullptr ? std::optional(current_->node) : std::nullopt; }

std::optional<Processors> NodeBinding::processors() {
  return current_ != nullptr ? std::optional(current_->processors) : std::nullopt;
}

Processors NodeBinding::unbound_processors() { return current_ != nullptr ? current_->unbound : usable_processors(); }

}  // namespace gqmm::threads
