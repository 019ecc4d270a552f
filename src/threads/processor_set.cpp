#include "threads/processor_set.hpp"

#include <algorithm>
#include <bit>
#include <thread>
#if defined(__linux__)
#include <sched.h>
#endif

namespace gqmm::threads {

ProcessorSet ProcessorSet::of_thread() {
  ProcessorSet set;
#if defined(__linux__)
  if (sched_getaffinity(0, sizeof set.words_, reinterpret_cast<cpu_set_t*>(set.words_.data())) == 0) {
    return set;
  }
  set = {};
#endif
  const unsigned machine = std::clamp(std::thread::hardware_concurrency(), 1U, unsigned{max_processors});
  for (unsigned processor = 0; processor < machine; ++processor) {
    set.add(static_cast<int>(processor));
  }
  return set;
}

ProcessorSet ProcessorSet::all() {
  ProcessorSet set;
  set.words_.fill(~std::uint64_t{0});
  return set;
}

int ProcessorSet::count() const {
  int processors = 0;
  for (const std::uint64_t word : words_) {
    processors += std::popcount(word);
  }
  return processors;
}

void ProcessorSet::add(int processor) {
  const auto position = static_cast<std::size_t>(processor);
  if (processor >= 0 && processor < max_processors) {
    words_[position / word_bits] |= std::uint64_t{1} << (position % word_bits);
  }
}

std::vector<int> ProcessorSet::numbers() const {
  std::vector<int> numbers;
  for (std::size_t i = 0; i < words_.size(); ++i) {
    for (std::uint64_t word = words_[i]; word != 0; word &= word - 1) {
      numbers.push_back(static_cast<int>(i * word_bits) + std::countr_zero(word));
    }
  }
  return numbers;
}

ProcessorSet operator&(const ProcessorSet& a, const ProcessorSet& b) {
  ProcessorSet both = a;
  for (std::size_t i = 0; i < both.words_.size(); ++i) {
    both.words_[i] &= b.words_[i];
  }
  return both;
}

ProcessorSet& ProcessorSet::operator|=(const ProcessorSet& other) {
  for (std::size_t i = 0; i < words_.size(); ++i) {
    words_[i] |= other.words_[i];
  }
  return *this;
}

void ProcessorSet::apply_to([[maybe_unused]] pthread_t thread) const {
#if defined(__linux__)
  static_cast<void>(pthread_setaffinity_np(thread, sizeof words_, reinterpret_cast<const cpu_set_t*>(words_.data())));
#endif
}

}  // namespace gqmm::threads
