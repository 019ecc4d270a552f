# ARM on another machine: Debian's packages g++-aarch64-linux-gnu and qemu-user-static (preset aarch64).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)  # GoogleTest looks for one
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static -L /usr/aarch64-linux-gnu)
# A processor with everything, and one without i8mm.
set(GQMM_EMULATED_CPUS max neoverse-n1)

# The compiler finds the headers in /usr/include by itself, and of fmt no more is used. CMake looks for packages of ARM only.
file(GLOB fmt_configs /usr/lib/*/cmake/fmt)
list(GET fmt_configs 0 fmt_config)
set(fmt_DIR ${fmt_config} CACHE PATH "fmt's package")
