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
  /// Threads of a call, the caller's included. 0: as many as gqmm::get_num_threads() says. A call has one thread inside a
  /// parallel region of another library, and while another call has the process's team.
  int threads = 0;
  /// The most that `threads` may be.
  static constexpr int max_threads = 4096;
};

}  // namespace gqmm
