// Answers, in a process of its own, what the environment variables have made of the library:
//
//     probe isa         runs a product and prints the instruction set in use
//     probe threads     prints available_threads() and the threads that the process has after a product with the default stream
//     probe encodings   runs a product instruction by instruction and prints which encodings the library's code used
//
// An exception is printed to stderr; the status is then 3.
#include "conformance/support/problems.hpp"
#include "formats/registry.hpp"
#include "threads/process_threads.hpp"

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#if defined(__x86_64__)
#include <ucontext.h>
#endif

namespace gqmm::conformance {

using namespace detail;

namespace {

// A small product: one row for the decode kernels, nine for the prefill kernels.
Operands small_product(int threads) {
  Spec spec;
  spec.format = find_format(Mode::affine, 4);
  spec.group_size = 32;
  spec.N = 16;
  spec.K = 32;
  spec.pairs = {1, 9};
  Operands operands = make_operands(spec);
  operands.options.stream.threads = threads;
  return operands;
}

void run(const Operands& operands) { (void)gather_qmm(operands.x, operands.weights, operands.options); }

#if defined(__x86_64__)

// The mapping that holds the library's code: the C library's own memcpy may use any instruction set.
std::uintptr_t code_first = 0;
std::uintptr_t code_last = 0;

volatile long steps = 0;
volatile long vex = 0;   // AVX, AVX2, FMA
volatile long evex = 0;  // AVX-512

void find_code() {
  const auto inside = reinterpret_cast<std::uintptr_t>(&gqmm::active_instruction_set);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t first = 0;
    std::uintptr_t last = 0;
    char dash = 0;
    std::istringstream(line) >> std::hex >> first >> dash >> last;
    if (first <= inside && inside < last) {
      code_first = first;
      code_last = last;
    }
  }
}

// After each instruction, with the address of the next. In 64-bit mode a first byte of C4 or C5 is VEX and 62 is EVEX, always.
void on_step(int, siginfo_t*, void* context) {
  const auto next = static_cast<std::uintptr_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  if (next < code_first || next >= code_last) {
    return;
  }
  steps = steps + 1;
  switch (*reinterpret_cast<const unsigned char*>(next)) {
    case 0xc4:
    case 0xc5: vex = vex + 1; break;
    case 0x62: evex = evex + 1; break;
    default: break;
  }
}

constexpr std::uint64_t trap_flag = 0x100;

int print_encodings() {
  find_code();
  struct sigaction action = {};
  action.sa_sigaction = on_step;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGTRAP, &action, nullptr);
  const Operands operands = small_product(1);
  run(operands);  // what happens only once is not looked at
  __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() | trap_flag);
  run(operands);
  __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~trap_flag);
  std::printf("%s%s%s\n", steps > 0 ? "traced" : "untraced", vex > 0 ? " vex" : "", evex > 0 ? " evex" : "");
  return 0;
}

#else

int print_encodings() {
  std::puts("untraced");
  return 0;
}

#endif

int answer(std::string_view question) {
  if (question == "isa") {
    run(small_product(1));
    std::puts(std::string(active_instruction_set()).c_str());
    return 0;
  }
  if (question == "threads") {
    run(small_product(0));
    std::printf("%d %d\n", available_threads(), threads::process_threads());
    return 0;
  }
  return print_encodings();
}

}  // namespace
}  // namespace gqmm::conformance

int main(int argc, char** argv) {
  try {
    return argc == 2 ? gqmm::conformance::answer(argv[1]) : 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 3;
  }
}
