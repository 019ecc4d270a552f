# cmake -D SOURCE= -D WORK= -D COMPILER= -P build_shared.cmake
# Builds the shared library and the program without the benchmark in WORK. One instruction set is enough, and saves time: the names
# of all of them are looked at in the wheel (tests/package).
cmake_minimum_required(VERSION 3.25)

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

run(${CMAKE_COMMAND} -S ${SOURCE} -B ${WORK} -G Ninja -D CMAKE_BUILD_TYPE=Release -D CMAKE_CXX_COMPILER=${COMPILER}
  -D GQMM_INSTRUCTION_SETS=avx2 -D GQMM_WARNINGS_AS_ERRORS=ON -D BUILD_SHARED_LIBS=ON -D GQMM_BUILD_TESTS=OFF -D GQMM_BUILD_CLI=ON
  -D GQMM_BUILD_BENCH=OFF)
run(${CMAKE_COMMAND} --build ${WORK})
