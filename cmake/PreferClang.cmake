# Compile with Clang where nobody chose a compiler: GCC 12 spills the kernels' accumulators (docs/guide/install.md). Included before
# project(). A choice made through CMAKE_CXX_COMPILER, CXX, a toolchain file or a preset stands. scikit-build-core sets CXX to the
# GCC that built Python where it is unset, so in its builds that value is nobody's choice: -C cmake.define.CMAKE_CXX_COMPILER is.
# A project that adds this one chooses its compiler itself.
if(NOT CMAKE_CURRENT_SOURCE_DIR STREQUAL CMAKE_SOURCE_DIR)
  return()
endif()
if(CMAKE_CXX_COMPILER OR CMAKE_TOOLCHAIN_FILE OR WIN32)
  return()
endif()
if(DEFINED ENV{CXX} AND NOT (SKBUILD AND "$ENV{CXX}" MATCHES "g\\+\\+$" AND NOT "$ENV{CXX}" MATCHES "clang"))
  return()
endif()
find_program(GQMM_CLANG NAMES clang++-21 clang++-20 clang++-19 clang++-18)
mark_as_advanced(GQMM_CLANG)
if(GQMM_CLANG)
  set(CMAKE_CXX_COMPILER ${GQMM_CLANG} CACHE FILEPATH "C++ compiler")
endif()
