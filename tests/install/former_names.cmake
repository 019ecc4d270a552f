# cmake -D SOURCE= -D WORK= -D COMPILER= -P former_names.cmake
# Configures the project with the former names of instruction sets and checks that the sets of those names are built, with the
# kernels of layers that they share.
file(REMOVE_RECURSE ${WORK})
execute_process(
  COMMAND ${CMAKE_COMMAND} -S ${SOURCE} -B ${WORK} -G Ninja -D CMAKE_CXX_COMPILER=${COMPILER}
    "-DGQMM_INSTRUCTION_SETS=avx512\;avx512vbmi\;neon\;i8mm" -D GQMM_BUILD_TESTS=OFF -D GQMM_BUILD_CLI=OFF
  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "Configuring failed:\n${output}")
endif()
file(READ ${WORK}/compile_commands.json commands)
string(REGEX MATCHALL "/cpu/targets/[a-z0-9_]+\\.cpp\"" built "${commands}")
list(TRANSFORM built REPLACE "/cpu/targets/(.*)\\.cpp\"" "\\1")
list(REMOVE_DUPLICATES built)
list(SORT built)
cmake_host_system_information(RESULT processor QUERY OS_PLATFORM)
if(processor MATCHES "x86_64|AMD64")
  set(expected avx512bw_layers avx512vbmi avx512vnni scalar scalar_layers)
elseif(processor MATCHES "aarch64|arm64")
  set(expected neon_dotprod neon_dotprod_layers neon_i8mm scalar scalar_layers)
else()
  set(expected scalar scalar_layers)
endif()
if(NOT built STREQUAL expected)
  message(FATAL_ERROR "The build has the sets ${built} instead of ${expected}")
endif()
