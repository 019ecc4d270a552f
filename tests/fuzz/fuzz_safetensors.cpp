#include "fuzz/targets.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  gqmm::io::read_as_safetensors(std::as_bytes(std::span(data, size)));
  return 0;
}
