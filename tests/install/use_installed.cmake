# cmake -D SOURCE= -D BUILD= -D WORK= -D COMPILER= [-D USER_COMPILER=] -P use_installed.cmake
# Installs BUILD under WORK/prefix, builds examples/cpp against that, and runs it.
cmake_minimum_required(VERSION 3.25)

if(NOT USER_COMPILER)
  set(USER_COMPILER ${COMPILER})
endif()

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${WORK}/prefix ${WORK}/example)
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix --component development)
run(${CMAKE_COMMAND} -S ${SOURCE}/examples/cpp -B ${WORK}/example -G Ninja -D CMAKE_CXX_COMPILER=${USER_COMPILER}
  -D CMAKE_PREFIX_PATH=${WORK}/prefix -D CMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${WORK}/example)
run(${WORK}/example/moe_layer)
