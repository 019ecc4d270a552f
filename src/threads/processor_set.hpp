// Sets of processors, as affinity masks have them.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <array>
#include <cstdint>

namespace gqmm::threads {

/// A set of processors by their numbers.
class ProcessorSet {
 public:
  /// The affinity mask of a thread of this process, empty if it has ended; 0 means the calling thread. Where the system has no
  /// such masks, the set has as many processors as the machine.
  static ProcessorSet of_thread(pid_t thread = 0);

  [[nodiscard]] int count() const;
  [[nodiscard]] bool contains(const ProcessorSet& other) const;
  void add(int processor);
  ProcessorSet& operator|=(const ProcessorSet& other);
  friend bool operator==(const ProcessorSet&, const ProcessorSet&) = default;

  /// Lets a thread run on these processors. Where the system refuses, the thread keeps the mask that it has.
  void apply_to(pthread_t thread) const;

 private:
  // The most processors that a Linux kernel can be built for.
  static constexpr std::size_t most = 8192;
  static constexpr std::size_t word_bits = 64;
  std::array<std::uint64_t, most / word_bits> words_ = {};
};

}  // namespace gqmm::threads
