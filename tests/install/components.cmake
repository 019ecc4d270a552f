# cmake -D SOURCE= -D BUILD= -D WORK= -D COMPILER= [-D MPI=ON] -P components.cmake
# Installs BUILD under WORK/prefix, and asks that package for components in projects of components/. With MPI, a program of such a
# project is built and run, and compiled in a project that has gqmm's sources.
cmake_minimum_required(VERSION 3.25)

# configure(folder argument…): sets `status` and `output`.
function(configure folder)
  file(REMOVE_RECURSE ${WORK}/${folder})
  execute_process(COMMAND ${CMAKE_COMMAND} -S ${SOURCE}/tests/install/components -B ${WORK}/${folder} -G Ninja
      -D CMAKE_CXX_COMPILER=${COMPILER} -D CMAKE_PREFIX_PATH=${WORK}/prefix -D CMAKE_BUILD_TYPE=Release ${ARGN}
    RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  set(status ${status} PARENT_SCOPE)
  set(output "${output}" PARENT_SCOPE)
endfunction()

# The last configuration succeeded (0) or did not (1), and has printed `text`. CMake breaks the lines of messages.
function(expect expected text)
  string(REGEX REPLACE "[ \n]+" " " printed "${output}")
  string(FIND "${printed}" "${text}" position)
  if(NOT status EQUAL expected OR position EQUAL -1)
    message(FATAL_ERROR "Expected status ${expected} and \"${text}\", but the status is ${status}:\n${output}")
  endif()
endfunction()

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${WORK}/prefix)
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix --component development)

configure(unknown "-DCOMPONENTS=COMPONENTS\;gpu")
expect(1 "gqmm's component gpu: there is none of this name; there is mpi")
configure(missing "-DCOMPONENTS=COMPONENTS\;mpi" -D CMAKE_DISABLE_FIND_PACKAGE_MPI=ON)
expect(1 "gqmm's component mpi: CMake finds no MPI for C++; on Debian and Ubuntu: apt-get install libopenmpi-dev")
configure(optional "-DCOMPONENTS=OPTIONAL_COMPONENTS\;mpi" -D CMAKE_DISABLE_FIND_PACKAGE_MPI=ON)
expect(0 "without gqmm::mpi")
configure(none)
expect(0 "without gqmm::mpi")
configure(embedded_missing -D GQMM_SOURCE=${SOURCE} -D GQMM_MPI=ON -D CMAKE_DISABLE_FIND_PACKAGE_MPI=ON)
expect(1 "MPI (for gqmm::mpi: GQMM_MPI) On Debian and Ubuntu, this command installs them: apt-get install libopenmpi-dev")
configure(embedded_without -D GQMM_SOURCE=${SOURCE})
expect(0 "without gqmm::mpi")
if(NOT MPI)
  return()
endif()

configure(installed "-DCOMPONENTS=COMPONENTS\;mpi")
expect(0 "Configuring done")
run(${CMAKE_COMMAND} --build ${WORK}/installed)
set(ENV{OMPI_MCA_btl} self)
run(${WORK}/installed/rank)
configure(embedded -D GQMM_SOURCE=${SOURCE} -D GQMM_MPI=ON)
expect(0 "Configuring done")
run(${CMAKE_COMMAND} --build ${WORK}/embedded --target CMakeFiles/rank.dir/rank.cpp.o)
