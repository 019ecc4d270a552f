// A process that ends while other threads compute. Static objects are destroyed or not, and the exit status is 7.
//
//     exit_probe return | exit | quick_exit
#include <gqmm/gqmm.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr std::int64_t N = 256;
constexpr std::int64_t K = 512;
constexpr std::int64_t rows = 64;

std::atomic<int> calls{0};

// These arrays are never destroyed, because threads still read them at the end.
std::array<float, static_cast<std::size_t>(N* K)> ones;
const gqmm::array* x = nullptr;
const gqmm::array* w = nullptr;

void compute(const gqmm::array& x, const gqmm::array& w, const gqmm::Stream& stream) {
  while (true) {
    const gqmm::array y = gqmm::gather_mm(x, w, {.stream = stream});
    ++calls;
  }
}

// A static object whose destructor computes too, after the library's own static objects have been destroyed.
struct ComputesAtTheEnd {
  ~ComputesAtTheEnd() {
    const std::vector<float> values(N * K, 1.0F);
    const gqmm::array a = gqmm::array::borrow(values.data(), {N, K}, gqmm::Dtype::float32);
    const gqmm::array y = gqmm::gather_mm(a, gqmm::array::borrow(values.data(), {K, N}, gqmm::Dtype::float32), {});
    float first = 0;
    std::memcpy(&first, y.bytes(), sizeof first);
    if (first != static_cast<float>(K)) {
      std::abort();
    }
  }
};
const ComputesAtTheEnd computes_at_the_end;

}  // namespace

int main(int argc, char** argv) {
  const std::string_view how = argc > 1 ? argv[1] : "return";
  ones.fill(1.0F);
  x = new gqmm::array(gqmm::array::borrow(ones.data(), {rows, K}, gqmm::Dtype::float32));
  w = new gqmm::array(gqmm::array::borrow(ones.data(), {K, N}, gqmm::Dtype::float32));
  const gqmm::array before_the_end = gqmm::gather_mm(*x, *w, {});  // this thread's memory is destroyed before static objects are
  const gqmm::Stream anywhere = {.threads = 3};
  const gqmm::Stream on_a_node = {.threads = 3, .node = gqmm::memory_nodes().front().number};
  for (const gqmm::Stream& stream : {anywhere, anywhere, on_a_node}) {
    std::thread([stream] { compute(*x, *w, stream); }).detach();
  }
  while (calls < 3) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (how == "exit") {
    std::exit(7);
  }
  if (how == "quick_exit") {
    std::quick_exit(7);
  }
  return 7;
}
