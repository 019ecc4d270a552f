// Streams: where an operator runs, and with how many threads.
#pragma once

#include <gqmm/export.hpp>

#include <cstdint>

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
  /// thread inside a parallel region of another library, and while another call has the process's team.
  int threads = 0;
  /// The largest value of `threads`.
  static constexpr int max_threads = 4096;
};

}  // namespace gqmm
