// Where and with how much of the machine an operator runs.
#pragma once

#include <gqmm/export.hpp>

#include <cstdint>

namespace gqmm {

enum class DeviceType : std::uint8_t { cpu };

struct GQMM_API Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

/// A CPU stream has no queue: an operator runs in the caller's thread and has finished when it returns.
struct GQMM_API Stream {
  Device device = {};
  /// Threads of a call, the caller's included. 0: as many as the machine grants this process, that is the smallest of the
  /// affinity mask, the cgroup's CPU quota and OMP_NUM_THREADS (see gqmm::available_threads). Inside an OpenMP parallel region
  /// of the caller's a call has one thread.
  int threads = 0;
  /// The most that `threads` may be. Of many more, a system refuses to start some, upon which OpenMP ends the process.
  static constexpr int max_threads = 4096;
};

}  // namespace gqmm
