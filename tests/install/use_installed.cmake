# cmake -D SOURCE= -D BUILD= -D WORK= -D COMPILER= [-D SHARED=ON] [-D USER_COMPILER=] -P use_installed.cmake
# Installs BUILD (or, with SHARED, a shared build made here) under WORK/prefix, builds examples/cpp against that, and runs it.
cmake_minimum_required(VERSION 3.25)

if(NOT USER_COMPILER)
  set(USER_COMPILER ${COMPILER})
endif()

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${WORK}/prefix ${WORK}/example)
if(SHARED)
  set(BUILD ${WORK}/shared)
  run(${CMAKE_COMMAND} -S ${SOURCE} -B ${BUILD} -G Ninja -D CMAKE_BUILD_TYPE=Release -D CMAKE_CXX_COMPILER=${COMPILER}
    -D BUILD_SHARED_LIBS=ON -D GQMM_BUILD_TESTS=OFF -D GQMM_BUILD_CLI=OFF)
  run(${CMAKE_COMMAND} --build ${BUILD})
endif()
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix --component development)
run(${CMAKE_COMMAND} -S ${SOURCE}/examples/cpp -B ${WORK}/example -G Ninja -D CMAKE_CXX_COMPILER=${USER_COMPILER}
  -D CMAKE_PREFIX_PATH=${WORK}/prefix -D CMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${WORK}/example)
run(${WORK}/example/moe_layer)

if(SHARED)
  # The library shows its own names alone: no fmt, no nlohmann/json, no instances of standard templates.
  find_program(NM nm REQUIRED)
  file(GLOB_RECURSE library ${WORK}/prefix/*/libgqmm.so)
  execute_process(COMMAND ${NM} --dynamic --defined-only --demangle ${library} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  if(NOT symbols MATCHES " T gqmm::gather_qmm\\(")
    message(FATAL_ERROR "${library} does not show gqmm::gather_qmm:\n${symbols}")
  endif()
  string(REPLACE ";" "," symbols "${symbols}")
  string(REPLACE "\n" ";" symbols "${symbols}")
  list(FILTER symbols EXCLUDE REGEX "^([0-9a-f]+ . (typeinfo (name )?for |vtable for )?gqmm(::|_).*)?$")
  if(symbols)
    list(JOIN symbols "\n" symbols)
    message(FATAL_ERROR "${library} shows names that are not its own:\n${symbols}")
  endif()
endif()
