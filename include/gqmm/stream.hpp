// Streams: where an operator runs, and with how many threads.
#pragma once

#include <gqmm/export.hpp>

#include <cstdint>
#include <optional>

namespace gqmm {

enum class DeviceType : std::uint8_t { cpu };

/// A processor on which operators run. There is only one: the CPU.
struct GQMM_API Device {
  DeviceType type = DeviceType::cpu;  ///< kind of device
  int index = 0;                      ///< number among the devices of its kind
  /// Whether both are the same device.
  friend bool operator==(const Device&, const Device&) = default;
};

/// The stream of a call. A CPU stream has no queue: an operator runs in the caller's thread and has finished when it returns.
struct GQMM_API Stream {
  Device device = {};  ///< where the operator runs
  /// The number of threads of a call, the caller's included. 0 means as many as gqmm::get_num_threads() says. A call uses one
  /// thread inside a parallel region of another library, and while another call has the team. With a node, 0 means not more than
  /// the node's processors.
  int threads = 0;
  /// The memory node on which the call runs, one of gqmm::memory_nodes(). Its threads, and the caller while the call runs, are
  /// bound to the node's processors. Memory that they write first lies on the node: that of results and of packed weights. A node
  /// has a team of its own, so calls for several nodes run at once if each has a caller's thread of its own. Without a value, a
  /// call runs on any node. A node of which the calling thread may use no processor is an error.
  std::optional<int> node = {};
  /// The largest value of `threads`.
  static constexpr int max_threads = 4096;
  /// Whether both say the same.
  friend bool operator==(const Stream&, const Stream&) = default;
};

}  // namespace gqmm
