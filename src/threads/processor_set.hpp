// Sets of processors, in the form of affinity masks.
#pragma once

#include <pthread.h>

#include <array>
#include <cstdint>
#include <vector>

namespace gqmm::threads {

/// A set of processors by their numbers.
class ProcessorSet {
 public:
  /// The affinity mask of the calling thread. Where the system has no such masks, the set has as many processors as the machine.
  static ProcessorSet of_thread();
  /// Every processor that a set can have.
  static ProcessorSet all();

  [[nodiscard]] int count() const;
  /// The numbers of the processors, in order.
  [[nodiscard]] std::vector<int> numbers() const;
  void add(int processor);
  ProcessorSet& operator|=(const ProcessorSet& other);
  friend ProcessorSet operator&(const ProcessorSet& a, const ProcessorSet& b);
  friend bool operator==(const ProcessorSet&, const ProcessorSet&) = default;

  /// Lets a thread run on these processors. Where the system refuses, the thread keeps the mask that it has.
  void apply_to(pthread_t thread) const;

  /// The largest number of processors that a Linux kernel can be built for.
  static constexpr int max_processors = 8192;

 private:
  static constexpr std::size_t word_bits = 64;
  std::array<std::uint64_t, max_processors / word_bits> words_ = {};
};

}  // namespace gqmm::threads
