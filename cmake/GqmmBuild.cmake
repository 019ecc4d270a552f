# How every target of this project is compiled.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_package(OpenMP REQUIRED COMPONENTS CXX)
include(GqmmDependencies)

# fmt's headers; what they declare is in the library (src/fmt.cpp).
add_library(gqmm_fmt INTERFACE)
target_include_directories(gqmm_fmt SYSTEM INTERFACE $<TARGET_PROPERTY:fmt::fmt-header-only,INTERFACE_INCLUDE_DIRECTORIES>)

# Warnings are errors for this project's own targets. -ffp-contract=off because bitwise equality of the kernels needs every fma to be
# written out (docs/numerics.md).
function(gqmm_compile_options target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Werror -ffp-contract=off)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # Its own headers trip these: AVX-512's intrinsics, std::string's operator+ and inlined vectors (GCC bugs 105593, 105651).
    target_compile_options(${target} PRIVATE -Wno-uninitialized -Wno-maybe-uninitialized -Wno-restrict -Wno-array-bounds -Wno-stringop-overflow)
  endif()
  if(GQMM_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${GQMM_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    target_link_options(${target} PRIVATE -fsanitize=${GQMM_SANITIZE})
  endif()
endfunction()
