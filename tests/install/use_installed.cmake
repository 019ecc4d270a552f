# cmake -D SOURCE= -D BUILD= -D WORK= -D COMPILER= [-D SHARED=ON] [-D USER_COMPILER=] -P use_installed.cmake
# Installs BUILD (or, with SHARED, a shared build made here) under WORK/prefix, builds examples/cpp against that, and runs it.

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
