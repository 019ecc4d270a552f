# How every target of this project is compiled.

# These variables hold in this folder and below it. A project that adds this one with add_subdirectory or FetchContent keeps its own
# values, so nothing here goes into the cache unless this is the project that is configured.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_UNITY_BUILD OFF)  # kernels of different instruction sets must not share a translation unit
if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
  if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
  endif()
else()
  set(CMAKE_COMPILE_WARNING_AS_ERROR OFF)  # it may be the parent's choice for its own sources
endif()

find_package(Threads REQUIRED)
include(GqmmDependencies)

# A shared library shows nothing but GQMM_API (include/gqmm/export.hpp) and GQMM_INTERNAL_API (src/internal_api.hpp). Tests look inside, so one that has tests shows all.
if(NOT (BUILD_SHARED_LIBS AND (GQMM_BUILD_TESTS OR GQMM_BUILD_FUZZERS)))
  set(CMAKE_CXX_VISIBILITY_PRESET hidden)
  set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
endif()

# fmt's headers, and what they only declare (src/fmt.cpp). A static library contains it for everybody; a shared one keeps its own to
# itself, so every program and extension links a copy.
if(BUILD_SHARED_LIBS)
  add_library(gqmm_fmt STATIC ${PROJECT_SOURCE_DIR}/src/fmt.cpp)
  set(gqmm_fmt_scope PUBLIC)
else()
  add_library(gqmm_fmt INTERFACE)
  set(gqmm_fmt_scope INTERFACE)
endif()
target_include_directories(gqmm_fmt SYSTEM ${gqmm_fmt_scope} $<TARGET_PROPERTY:fmt::fmt-header-only,INTERFACE_INCLUDE_DIRECTORIES>)
if(GQMM_DLPACK_INCLUDE_DIR)
  target_include_directories(gqmm_fmt SYSTEM ${gqmm_fmt_scope} ${GQMM_DLPACK_INCLUDE_DIR})
endif()

# Compiles these headers once for the target. More than half of the time to compile most files goes into headers of the standard
# library and of fmt.
function(gqmm_precompile_headers target)
  target_precompile_headers(${target} PRIVATE ${ARGN})
  # The same headers then give the same file, which ccache asks for.
  target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:Clang>:SHELL:-Xclang -fno-pch-timestamp>)
endfunction()

# The same for a target of the product, if GQMM_PRECOMPILE_HEADERS says so: the headers that most files include, and more of them.
function(gqmm_precompile_common_headers target)
  if(GQMM_PRECOMPILE_HEADERS)
    gqmm_precompile_headers(${target}
      <fmt/format.h> <fmt/ranges.h> <algorithm> <array> <atomic> <bit> <cmath> <condition_variable> <cstdint> <cstring> <filesystem>
      <functional> <limits> <memory> <mutex> <numeric> <optional> <span> <string> <string_view> <thread> <utility> <variant> <vector>
      ${ARGN})
  endif()
endfunction()

# Warnings are shown where this is the project that is configured, and are errors in its presets. Another project may add this one
# with flags of its own: -Werror does not apply to these sources then, and -ffast-math does not because it would change the bits of
# results. -ffp-contract=off because bitwise equality of the kernels needs every fma to be written out (docs/reference/numerics.md).
function(gqmm_compile_options target)
  set(options "")
  if(PROJECT_IS_TOP_LEVEL)
    list(APPEND options -Wall -Wextra -Wpedantic)
  endif()
  if(GQMM_WARNINGS_AS_ERRORS)
    list(APPEND options -Werror)
  elseif(NOT PROJECT_IS_TOP_LEVEL)
    list(APPEND options -Wno-error)
  endif()
  if(NOT PROJECT_IS_TOP_LEVEL)
    list(APPEND options -fno-fast-math)
  endif()
  target_compile_options(${target} PRIVATE ${options} -ffp-contract=off)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # Its own headers trip these: AVX-512's intrinsics, std::string's operator+ and inlined vectors (GCC bugs 105593, 105651).
    target_compile_options(${target} PRIVATE -Wno-uninitialized -Wno-maybe-uninitialized -Wno-restrict -Wno-array-bounds -Wno-stringop-overflow)
  endif()
  if(GQMM_ASSERTIONS)
    target_compile_definitions(${target} PRIVATE GQMM_ASSERTIONS)
  endif()
  if(GQMM_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${GQMM_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    target_link_options(${target} PRIVATE -fsanitize=${GQMM_SANITIZE})
  endif()
endfunction()
