# Compile with Clang where nobody chose a compiler: GCC 12 spills the kernels' accumulators (docs/benchmarks.md). Included before
# project(). A choice made through CMAKE_CXX_COMPILER, CXX, a toolchain file or a preset stands.
if(CMAKE_CXX_COMPILER OR CMAKE_TOOLCHAIN_FILE OR DEFINED ENV{CXX} OR WIN32)
  return()
endif()
find_program(GQMM_CLANG NAMES clang++-21 clang++-20 clang++-19 clang++-18)
mark_as_advanced(GQMM_CLANG)
if(NOT GQMM_CLANG)
  return()
endif()
# Clang without its OpenMP runtime is of no use here.
file(WRITE ${CMAKE_BINARY_DIR}/CMakeFiles/openmp.cpp "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n")
execute_process(
  COMMAND ${GQMM_CLANG} -fopenmp ${CMAKE_BINARY_DIR}/CMakeFiles/openmp.cpp -o ${CMAKE_BINARY_DIR}/CMakeFiles/openmp
  RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
if(NOT failed)
  set(CMAKE_CXX_COMPILER ${GQMM_CLANG})
endif()
