#include "cpu/each_row.hpp"

#include "cpu/call_context.hpp"

namespace gqmm::cpu {
namespace {

/// An element that is read from memory and written again takes about as long as this number of multiply-adds.
constexpr double multiply_adds_of_an_element = 32;

}  // namespace

void for_each_row(std::int64_t count, std::int64_t elements, int threads, const std::function<void(std::int64_t row)>& work) {
  CallContext call(static_cast<double>(count) * static_cast<double>(elements) * multiply_adds_of_an_element, threads);
  call.use_at_most(count);
  call.add_phase(count, [](std::int64_t) { return 1; }, [&work](std::int64_t row, std::int64_t) { work(row); });
  call.run();
}

}  // namespace gqmm::cpu
