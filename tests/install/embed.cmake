# cmake -D SOURCE= -D WORK= -D COMPILER= -D PYTHON= -D HOW=add_subdirectory|FetchContent [-D SHARED=ON] -P embed.cmake
# Configures, builds and runs the project in embedding/, which adds gqmm to its own build.
# Object files of an earlier build in WORK are used again.
cmake_minimum_required(VERSION 3.25)

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

# Without a build type, as many projects are configured: gqmm must not choose one for its parent. To save time, one instruction
# set, and precompiled headers of others.
run(${CMAKE_COMMAND} --fresh -S ${SOURCE}/tests/install/embedding -B ${WORK} -G Ninja -D CMAKE_CXX_COMPILER=${COMPILER}
  -D GQMM_SOURCE=${SOURCE} -D HOW=${HOW} -D BUILD_SHARED_LIBS=${SHARED} -D GQMM_INSTRUCTION_SETS=avx2 -D GQMM_PRECOMPILE_HEADERS=ON)
run(${CMAKE_COMMAND} --build ${WORK})
run(${WORK}/legacy)
run(${WORK}/user)
if(SHARED)
  file(GLOB_RECURSE library ${WORK}/*/libgqmm.so)
  run(${PYTHON} ${SOURCE}/tests/install/exported_names.py ${library})
endif()
